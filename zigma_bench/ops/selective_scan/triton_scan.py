"""The selective scan in Triton, as an operator that PyTorch knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigma_bench.errors import NotReady
from zigma_bench.ops.arguments import dense_rows
from zigma_bench.ops.cuda.library import define
from zigma_bench.ops.selective_scan.fused import WITH_INITIAL, flops
from zigma_bench.ops.selective_scan.launch import MOST_STATES, SAVE, Inputs
from zigma_bench.ops.selective_scan.triton_launch import backward, forward


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
    """See `selective_scan`; rows in any dtype that the kernels read, and y in u's."""
    check_states(A.shape[1])
    D_ = A.new_zeros(A.shape[0]) if D is None else D
    bias = A.new_zeros(A.shape[0]) if delta_bias is None else delta_bias
    given = (u, delta, A.float(), B, C, D_.float(), z, bias.float())
    start = None if initial is None else initial.float()
    save = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (*given, start))
    y: Tensor = _forward(*given, delta_softplus, path, since, start, save)[0]
    return y


def check_states(states: int) -> None:
    """NotReady if the kernels don't hold so many states."""
    if states > MOST_STATES:
        raise NotReady(
            "the backend 'triton' doesn't hold so many states in registers",
            where="selective_scan",
            expected=f"at most {MOST_STATES}",
            got=states,
            do="take the backend 'torch'",
        )


def _inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, bias: Tensor,
    softplus: bool, path: Tensor | None, since: Tensor | None, initial: Tensor | None,
) -> Inputs:  # fmt: skip
    rows = (dense_rows(tensor) for tensor in (u, delta, B, C))
    path, since = (None if tensor is None else tensor.contiguous() for tensor in (path, since))
    u, delta, B, C = rows
    gate = None if z is None else dense_rows(z)
    return Inputs(u, delta, A, B, C, D.contiguous(), gate, bias.contiguous(), softplus, path, since, initial)


def _run(*arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, save = arguments
    return forward(_inputs(*inputs), save=save)


def _shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, bias: Tensor,
    softplus: bool, path: Tensor | None, since: Tensor | None, initial: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, length, channels = u.shape
    shape = (batch, -(-length // SAVE), A.shape[1], channels) if save else (0,)
    return torch.empty_like(u, memory_format=torch.contiguous_format), A.new_empty(shape)


def _run_backward(grad: Tensor, saved: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    given = _inputs(*inputs)
    found = backward(given, dense_rows(grad), saved)
    of_B, of_C = found.BC.unbind(2)
    of_z = grad.new_empty(0) if found.z is None else found.z
    of_initial = given.A.new_empty(0) if found.initial is None else found.initial
    rows = (found.u, found.delta, found.A, of_B.to(given.B.dtype).contiguous(), of_C.to(given.C.dtype).contiguous())
    return (*rows, found.D, of_z, found.bias, of_initial)


def _backward_shapes(grad: Tensor, saved: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    *tensors, _, _, _, initial = inputs
    tensors = [grad.new_empty(0) if tensor is None else tensor for tensor in tensors]
    tensors.append(inputs[2].new_empty(0) if initial is None else initial)
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, path, since, initial, _ = inputs
    ctx.save_for_backward(output[1], path, since, initial, *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved, path, since, initial, *tensors = ctx.saved_tensors
    found = _backward(grad, saved, *tensors, ctx.softplus, path, since, initial)
    given = (*tensors, initial)
    *of_tensors, of_initial = (None if tensor is None else one for tensor, one in zip(given, found, strict=True))
    return (*of_tensors, None, None, None, of_initial, None)


_forward = define(
    "triton_selective_scan",
    f"({WITH_INITIAL}, bool save) -> (Tensor, Tensor)",
    _run,
    _shapes,
    flops,
    keep=_keep,
    differentiate=_differentiate,
    devices=("cuda", "cpu"),
)
_backward = define(
    "triton_selective_scan_backward",
    f"(Tensor grad, Tensor saved, {WITH_INITIAL}) -> ({', '.join(['Tensor'] * 9)})",
    _run_backward,
    _backward_shapes,
    lambda grad, saved, *arguments: 2 * flops(*arguments),
    devices=("cuda", "cpu"),
)
