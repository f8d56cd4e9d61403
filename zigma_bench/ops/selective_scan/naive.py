"""The selective scan by its definition: a loop over time. The reference for the other backends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zigma_bench.ops.selective_scan import SelectiveScanArguments


def naive_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    """See `selective_scan`; computes in the common dtype of its arguments. Autograd differentiates it."""
    a = arguments
    batch, length, channels = a.u.shape
    order = range(length) if a.path is None else a.path.tolist()
    starts = [0] * length if a.segment_starts is None else a.segment_starts.tolist()
    zero = a.u.new_zeros(batch, channels, a.A.shape[1])
    h = zero if a.initial is None else a.initial  # [B, E, N]
    # unbind: the backward pass of an index would fill a whole [B, L, E] at every step.
    u_, delta_, B_, C_ = (tensor.unbind(1) for tensor in (a.u, a.delta, a.B, a.C))
    z_ = None if a.z is None else a.z.unbind(1)
    out = list(u_)  # out[order[i]] will be the output of step i
    for step, row in enumerate(order):
        h = zero if step and starts[step] == step else h
        d = delta_[row] if a.delta_bias is None else delta_[row] + a.delta_bias  # [B, E]
        d = F.softplus(d) if a.delta_softplus else d
        h = torch.exp(d[:, :, None] * a.A) * h + (d * u_[row])[:, :, None] * B_[row][:, None, :]
        y = (h * C_[row][:, None, :]).sum(-1)  # [B, E]
        y = y if a.D is None else y + a.D * u_[row]
        out[row] = y if z_ is None else y * F.silu(z_[row])
    return torch.stack(out, 1)
