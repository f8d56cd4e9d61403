"""The causal convolution by its definition: a loop over time and taps. The reference for the other backends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zigma_bench.ops.causal_conv import CausalConvArguments


def naive_causal_conv(arguments: CausalConvArguments) -> Tensor:
    """See `causal_conv`; computes in the common dtype of its arguments. Autograd differentiates it."""
    a = arguments
    length, width = a.x.shape[1], a.weight.shape[1]
    order = list(range(length)) if a.path is None else a.path.tolist()
    starts = [0] * length if a.segment_starts is None else a.segment_starts.tolist()
    x_ = a.x.unbind(1)  # the backward pass of an index would fill a whole [B, L, E] at every step
    out = list(x_)  # out[order[t]] will be the output of step t
    for t, row in enumerate(order):
        y = torch.zeros_like(x_[row]) if a.bias is None else a.bias.expand_as(x_[row])  # [B, E]
        for k in range(max(0, width - 1 - t + starts[t]), width):
            y = y + a.weight[:, k] * x_[order[t - width + 1 + k]]
        out[row] = F.silu(y) if a.silu else y
    return torch.stack(out, 1)
