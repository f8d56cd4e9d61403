"""The selective scan in PyTorch's operators, on any device: blocks of 16 steps, recomputed in the backward pass.

Only the states at the starts of the blocks are saved. Inside a block, everything except the recurrence is one operation
on [B, 16, E, N]. Cumulative sums of exponentials would avoid the loop, but give NaN after a few steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.selective_scan import SelectiveScanArguments

BLOCK = 16  # steps per state of the backend's `SavedMemory`


def torch_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    """See `selective_scan`; computes in the dtype of its arguments, which is the same for all."""
    a = arguments
    d = a.delta if a.delta_bias is None else a.delta + a.delta_bias
    d = F.softplus(d) if a.delta_softplus else d
    fresh = None
    if a.segment_starts is not None:
        fresh = a.segment_starts == torch.arange(len(a.segment_starts), device=a.segment_starts.device)
        fresh[0] = False  # the first step reads the initial state
    h = a.u.new_zeros(a.u.shape[0], a.u.shape[2], a.A.shape[1]) if a.initial is None else a.initial
    y: Tensor = _TorchRecurrence.apply(a.u, d, a.A, a.B, a.C, h, a.path, fresh)
    y = y if a.D is None else y + a.D * a.u
    return y if a.z is None else y * F.silu(a.z)


def _blocks(length: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _read(tensor: Tensor, path: Tensor | None, block: slice) -> Tensor:
    return tensor[:, block] if path is None else tensor.index_select(1, path[block])


def _write(tensor: Tensor, path: Tensor | None, block: slice, values: Tensor) -> None:
    if path is None:
        tensor[:, block] = values
    else:
        tensor.index_copy_(1, path[block], values)


def _states(h: Tensor, u: Tensor, d: Tensor, A: Tensor, B: Tensor, fresh: Tensor | None) -> tuple[Tensor, Tensor]:
    """Decays exp(d A) and states of a block from the state h [B, E, N] before it, both [B, T, E, N].

    The decay into the first step of a segment (`fresh`, bool [T]) is zero. The state that it multiplies is replaced by
    zero too, here and in the backward pass: 0 times inf or NaN is NaN, which would leak from one segment into the next.
    """
    decays = torch.exp(d[..., None] * A)
    if fresh is not None:
        decays.masked_fill_(fresh[:, None, None], 0)
    states = (d * u)[..., None] * B[:, :, None, :]
    for i in range(states.shape[1]):
        if fresh is not None:
            h = torch.where(fresh[i], decays[:, i], h)  # these decays are zeros
        h = states[:, i].addcmul_(decays[:, i], h)
    return decays, states


class _TorchRecurrence(torch.autograd.Function):
    """y = <C, h>, h_t = exp(d A) h_{t-1} + d B u along the path, starting at h [B, E, N], or zero at fresh steps."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, path: Tensor | None,
        fresh: Tensor | None,
    ) -> Tensor:  # fmt: skip
        y, starts = torch.empty_like(d, memory_format=torch.contiguous_format), []
        for block in _blocks(u.shape[1]):
            starts.append(h)
            u_, d_, B_, C_ = (_read(tensor, path, block) for tensor in (u, d, B, C))
            states = _states(h, u_, d_, A, B_, None if fresh is None else fresh[block])[1]
            h = states[:, -1].clone()
            _write(y, path, block, (states * C_[:, :, None, :]).sum(-1))
        ctx.save_for_backward(u, d, A, B, C, path, fresh, torch.stack(starts))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        u, d, A, B, C, path, fresh, starts = ctx.saved_tensors
        grads = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (u, d, B, C)]
        grad_A, carried = torch.zeros_like(A), torch.zeros_like(starts[0])
        for index, block in reversed(list(enumerate(_blocks(u.shape[1])))):
            inputs = [_read(tensor, path, block) for tensor in (u, d, B, C, grad_y)]
            own = None if fresh is None else fresh[block]
            more, more_A, carried = _backward_block(own, starts[index], A, carried, *inputs)
            for grad, values in zip(grads, more, strict=True):
                _write(grad, path, block, values)
            grad_A += more_A
        grad_u, grad_d, grad_B, grad_C = grads
        return grad_u, grad_d, grad_A, grad_B, grad_C, carried, None, None


def _backward_block(
    fresh: Tensor | None,
    h: Tensor,
    A: Tensor,
    carried: Tensor,
    u: Tensor,
    d: Tensor,
    B: Tensor,
    C: Tensor,
    grad_y: Tensor,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Gradients of a block (u, d, B, C), of A, and of the state h before it, from that of the state after it."""
    decays, states = _states(h, u, d, A, B, fresh)
    g = grad_y[..., None] * C[:, :, None, :]  # gradients of the states, [B, T, E, N]
    g[:, -1] += carried
    for i in range(g.shape[1] - 1, 0, -1):
        after = g[:, i] if fresh is None else torch.where(fresh[i], decays[:, i], g[:, i])
        g[:, i - 1].addcmul_(decays[:, i], after)
    grad_C = (states * grad_y[..., None]).sum(2)
    grad_B = (g * (d * u)[..., None]).sum(2)
    through_B = (g * B[:, :, None, :]).sum(-1)
    decays.mul_(g)  # from here on, the gradient of the state before each step
    before, carried = torch.cat((h[:, None], states[:, :-1]), 1), decays[:, 0].clone()
    if fresh is not None:
        before.masked_fill_(fresh[:, None, None], 0)
        carried.masked_fill_(fresh[0], 0)
    exponent = before.mul_(decays)  # gradient of d A
    grad_d = u * through_B + (exponent * A).sum(-1)
    grad_A = (exponent * d[..., None]).sum((0, 1))
    return (d * through_B, grad_d, grad_B, grad_C), grad_A, carried
