"""The peer `pscan`: the selective scan as a parallel scan in plain torch, with gathers before and after for a path.

Users without compiled kernels run such a scan today. It is a work-efficient inclusive scan over time (Blelloch 1990),
in place and on strided views. Its backward pass is the same scan in reversed time. The form follows alxndrTL/mamba.py;
the code is our own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.causal_conv.torch_blocks import take_rows


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor, path: Tensor
) -> Tensor:
    """Like `ops.selective_scan`: u, delta, z [B, L, E], A [E, N], B and C [B, L, N], D and delta_bias [E], path [L]."""
    inverse = torch.empty_like(path)
    inverse[path] = torch.arange(len(path), device=path.device)
    u_, delta_, B_, C_ = (take_rows(tensor, path, inverse) for tensor in (u, delta, B, C))
    d = F.softplus(delta_.float() + delta_bias)
    decays = torch.exp(d[..., None] * A)  # [B, L, E, N]
    h = (d * u_.float())[..., None] * B_.float()[:, :, None, :]
    if torch.is_grad_enabled():
        h = _Recurrence.apply(decays, h)
    else:
        accumulate_(decays, h)
    y = (h @ C_.float()[..., None]).squeeze(-1) + D * u_
    out: Tensor = take_rows(y, inverse, path) * F.silu(z.float())
    return out.to(u.dtype)


def accumulate_(decays: Tensor, x: Tensor) -> None:
    """x[:, t] = decays[:, t] x[:, t-1] + x[:, t], in place along dimension 1. Overwrites `decays`."""
    length = x.shape[1]
    if length < 2:
        return
    first, second = slice(0, length - 1, 2), slice(1, length, 2)
    x[:, second].addcmul_(decays[:, second], x[:, first])
    decays[:, second].mul_(decays[:, first])
    accumulate_(decays[:, second], x[:, second])  # every second step is final now
    later = slice(2, length, 2)
    x[:, later].addcmul_(decays[:, later], x[:, slice(1, length - 1, 2)])


class _Recurrence(torch.autograd.Function):
    """h_t = decays_t h_{t-1} + x_t; all [B, L, E, N]."""

    @staticmethod
    def forward(ctx: Any, decays: Tensor, x: Tensor) -> Tensor:
        accumulate_(decays.clone(), x)
        ctx.mark_dirty(x)
        ctx.save_for_backward(decays, x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        decays, h = ctx.saved_tensors
        reversed_decays = torch.empty_like(decays)
        reversed_decays[:, 1:] = decays[:, 1:].flip(1)
        g = grad.flip(1)
        accumulate_(reversed_decays, g)
        g = g.flip(1)
        grad_decays = torch.empty_like(decays)
        grad_decays[:, 0] = 0
        torch.mul(g[:, 1:], h[:, :-1], out=grad_decays[:, 1:])
        return grad_decays, g
