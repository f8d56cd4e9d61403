"""The causal convolution as its definition reads: a loop over time and taps. The judge of the other backends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor | None, since: Tensor | None, silu: bool
) -> Tensor:
    """See `causal_conv`; all tensors have one dtype, in which it computes. Gradients come from autograd."""
    length, width = x.shape[1], weight.shape[1]
    order = list(range(length)) if path is None else path.tolist()
    began = [0] * length if since is None else since.tolist()
    x_ = x.unbind(1)  # the backward of an index would fill a whole [B, L, E] at every step
    out = list(x_)  # out[order[t]] will be the output of step t
    for t, row in enumerate(order):
        y = torch.zeros_like(x_[row]) if bias is None else bias.expand_as(x_[row])  # [B, E]
        for k in range(max(0, width - 1 - t + began[t]), width):
            y = y + weight[:, k] * x_[order[t - width + 1 + k]]
        out[row] = F.silu(y) if silu else y
    return torch.stack(out, 1)
