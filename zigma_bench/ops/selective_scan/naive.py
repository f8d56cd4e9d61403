"""The selective scan as its definition reads: a loop over time. The judge of the other backends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    path: Tensor | None,
    since: Tensor | None,
    initial: Tensor | None,
) -> Tensor:
    """See `selective_scan`; all tensors have one dtype, in which it computes. Gradients come from autograd."""
    batch, length, channels = u.shape
    order = range(length) if path is None else path.tolist()
    began = [0] * length if since is None else since.tolist()
    zero = u.new_zeros(batch, channels, A.shape[1])
    h = zero if initial is None else initial  # [B, E, N]
    # unbind: the backward of an index would fill a whole [B, L, E] at every step.
    u_, delta_, B_, C_ = (tensor.unbind(1) for tensor in (u, delta, B, C))
    z_ = None if z is None else z.unbind(1)
    out = list(u_)  # out[order[i]] will be the output of step i
    for step, row in enumerate(order):
        h = zero if step and began[step] == step else h
        d = delta_[row] if delta_bias is None else delta_[row] + delta_bias  # [B, E]
        d = F.softplus(d) if delta_softplus else d
        h = torch.exp(d[:, :, None] * A) * h + (d * u_[row])[:, :, None] * B_[row][:, None, :]
        y = (h * C_[row][:, None, :]).sum(-1)  # [B, E]
        y = y if D is None else y + D * u_[row]
        out[row] = y if z_ is None else y * F.silu(z_[row])
    return torch.stack(out, 1)
