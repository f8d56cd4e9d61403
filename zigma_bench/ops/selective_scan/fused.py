"""The selective scan on an NVIDIA card, as an operator that PyTorch knows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zigma_bench.errors import NotReady
from zigma_bench.ops.arguments import dense_rows
from zigma_bench.ops.counts import SELECTIVE_SCAN
from zigma_bench.ops.cuda.library import define
from zigma_bench.ops.selective_scan.launch import MOST_STATES, SAVE, Inputs, backward, forward


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
    """See `selective_scan`: rows in any dtype that the kernels read, along K paths at once; y [K, B, L, E] in u's."""
    check_states(A.shape[-1])
    wide = torch.promote_types(u.dtype, delta.dtype)
    wide = wide if z is None else torch.promote_types(wide, z.dtype)
    projected = torch.promote_types(B.dtype, C.dtype)
    D_ = A.new_zeros(A.shape[:2]) if D is None else D
    bias = A.new_zeros(A.shape[:2]) if delta_bias is None else delta_bias
    save = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (u, delta, A, B, C, D, z, delta_bias, initial)
    )
    y, _ = _forward(
        u.to(wide), delta.to(wide), A.float(), B.to(projected), C.to(projected), D_.float(),
        None if z is None else z.to(wide), bias.float(), delta_softplus, path, since,
        None if initial is None else initial.float(), save,
    )  # fmt: skip
    return y.to(u.dtype)  # type: ignore[no-any-return]


def check_states(states: int) -> None:
    """NotReady if the kernels don't hold so many states."""
    if states > MOST_STATES:
        raise NotReady(
            "the backend 'fused' doesn't hold so many states in registers",
            where="selective_scan",
            expected=f"at most {MOST_STATES}",
            got=states,
            do="take the backend 'torch'",
        )


def _inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, bias: Tensor,
    softplus: bool, path: Tensor | None, since: Tensor | None, initial: Tensor | None,
) -> Inputs:  # fmt: skip
    rows = [None if tensor is None else dense_rows(tensor) for tensor in (u, delta, B, C, z)]
    u_, delta_, B_, C_, z_ = rows
    assert u_ is not None and delta_ is not None and B_ is not None and C_ is not None
    parameters = [tensor.contiguous() for tensor in (A, D, bias)]
    path, since, initial = (None if tensor is None else tensor.contiguous() for tensor in (path, since, initial))
    A, D, bias = parameters
    return Inputs(u_, delta_, A, B_, C_, D, z_, bias, softplus, path, since, initial)


def _run(*arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, save = arguments
    return forward(_inputs(*inputs), save=save)


def _shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, bias: Tensor,
    softplus: bool, path: Tensor | None, since: Tensor | None, initial: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    paths, batch, length, channels = u.shape
    shape = (paths, batch, -(-length // SAVE), channels, A.shape[2]) if save else (0,)
    return torch.empty_like(u, memory_format=torch.contiguous_format), A.new_empty(shape)


def _run_backward(grad: Tensor, saved: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    given = _inputs(*inputs)
    found = backward(given, dense_rows(grad), saved)
    of_z = grad.new_empty(0) if found.z is None else found.z
    of_initial = found.A.new_empty(0) if found.initial is None else found.initial
    of_B, of_C = (tensor.to(given.B.dtype).contiguous() for tensor in found.BC.unbind(3))
    return found.u, found.delta, found.A, of_B, of_C, found.D, of_z, found.bias, of_initial


def _backward_shapes(
    grad: Tensor, saved: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None,
    bias: Tensor, softplus: bool, path: Tensor | None, since: Tensor | None, initial: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    of_z = grad.new_empty(0) if z is None else z
    of_initial = A.new_empty(0) if initial is None else initial
    return tuple(
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor in (u, delta, A, B, C, D, of_z, bias, of_initial)
    )


def flops(u: Any, delta: Any, A: Any, *_: Any) -> int:
    """Of the forward, from shapes."""
    return SELECTIVE_SCAN * math.prod(map(int, u)) * int(A[-1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    u, delta, A, B, C, D, z, bias, ctx.softplus, path, since, initial, _ = inputs
    ctx.save_for_backward(output[1], u, delta, A, B, C, D, z, bias, path, since, initial)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved, u, delta, A, B, C, D, z, bias, path, since, initial = ctx.saved_tensors
    found = _backward(grad, saved, u, delta, A, B, C, D, z, bias, ctx.softplus, path, since, initial)
    *of_parameters, of_z, of_bias, of_initial = found
    of_optional = None if z is None else of_z, of_bias, None, None, None, None if initial is None else of_initial
    return (*of_parameters, *of_optional, None)


ARGUMENTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor? z, Tensor bias, bool softplus, "
    "Tensor? path, Tensor? since"
)
WITH_INITIAL = f"{ARGUMENTS}, Tensor? initial"
_forward = define(
    "selective_scan",
    f"({WITH_INITIAL}, bool save) -> (Tensor, Tensor)",
    _run,
    _shapes,
    flops,
    keep=_keep,
    differentiate=_differentiate,
)
_backward = define(
    "selective_scan_backward",
    f"(Tensor grad, Tensor saved, {WITH_INITIAL}) -> ({', '.join(['Tensor'] * 9)})",
    _run_backward,
    _backward_shapes,
    lambda grad, saved, *arguments: 2 * flops(*arguments),
)
