"""SSD by its recurrence: a loop over time. The reference for the chunked form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zigma_bench.ops.arguments import working_dtype
from zigma_bench.ops.ssd import SsdArguments, in_wide_dtype


def naive_ssd(arguments: SsdArguments) -> Tensor:
    """See `ssd`; computes in float32, or float64 for float64 x. Autograd differentiates."""
    a = in_wide_dtype(arguments, working_dtype(arguments.x))
    batch, length, channels = a.x.shape
    heads, groups = len(a.A), a.B.shape[2]
    order = range(length) if a.path is None else a.path.tolist()
    starts = [0] * length if a.segment_starts is None else a.segment_starts.tolist()
    h = zero = a.dt.new_zeros(batch, heads, channels // heads, a.B.shape[3])  # [B, H, P, N]
    # unbind: the backward pass of an index would fill a whole [B, L, E] at every step.
    x_ = torch.unflatten(a.x.to(a.dt.dtype), -1, (heads, -1)).unbind(1)  # [B, H, P] each
    B_, C_ = (
        tensor.to(a.dt.dtype).repeat_interleave(heads // groups, 2).unbind(1) for tensor in (a.B, a.C)
    )  # [B, H, N]
    dt_ = a.dt.unbind(1)  # [B, H]
    out = list(x_)  # out[order[i]] will be the output of step i
    for step, row in enumerate(order):
        h = zero if starts[step] == step else h
        d = dt_[row] if a.dt_bias is None else dt_[row] + a.dt_bias
        d = F.softplus(d) if a.dt_softplus else d
        enters = (d[:, :, None] * x_[row])[..., None] * B_[row][:, :, None, :]
        h = torch.exp(d * a.A)[:, :, None, None] * h + enters
        y = (h * C_[row][:, :, None, :]).sum(-1)  # [B, H, P]
        out[row] = y if a.D is None else y + a.D[:, None] * x_[row]
    return torch.stack(out, 1).flatten(2).to(a.x.dtype)
