"""The selective scan on an NVIDIA GPU, as a registered operator of PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import contiguous, dense_rows
from zigma_bench.ops.counts import SELECTIVE_SCAN
from zigma_bench.ops.cuda.library import define_operator
from zigma_bench.ops.selective_scan import SelectiveScanArguments
from zigma_bench.ops.selective_scan.launch import SAVE, run_backward_kernels, run_forward_kernels


def fused_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    """See `selective_scan`: K paths in one call, [K, B, L, E] in u's dtype. The kernels read rows of any dtype."""
    a = arguments
    wide = torch.promote_types(a.u.dtype, a.delta.dtype)
    wide = wide if a.z is None else torch.promote_types(wide, a.z.dtype)
    projected = torch.promote_types(a.B.dtype, a.C.dtype)
    D = a.A.new_zeros(a.A.shape[:2]) if a.D is None else a.D
    bias = a.A.new_zeros(a.A.shape[:2]) if a.delta_bias is None else a.delta_bias
    save = a.needs_grad()
    y, _ = _forward(
        a.u.to(wide), a.delta.to(wide), a.A.float(), a.B.to(projected), a.C.to(projected), D.float(),
        None if a.z is None else a.z.to(wide), bias.float(), a.delta_softplus, a.path, a.segment_starts,
        None if a.initial is None else a.initial.float(), save,
    )  # fmt: skip
    return y.to(a.u.dtype)  # type: ignore[no-any-return]


def _readable(*fields: Any) -> SelectiveScanArguments:
    """The arguments as the kernels read them: rows with adjacent numbers, all else contiguous."""
    a = SelectiveScanArguments(*fields)
    return SelectiveScanArguments(
        dense_rows(a.u), dense_rows(a.delta), a.A.contiguous(), dense_rows(a.B), dense_rows(a.C), contiguous(a.D),
        None if a.z is None else dense_rows(a.z), contiguous(a.delta_bias), a.delta_softplus, contiguous(a.path),
        contiguous(a.segment_starts), contiguous(a.initial),
    )  # fmt: skip


def _run(*fields: Any) -> tuple[Tensor, Tensor]:
    *arguments, save = fields
    return run_forward_kernels(_readable(*arguments), save=save)


def _fake_run(*fields: Any) -> tuple[Tensor, Tensor]:
    *arguments, save = fields
    a = SelectiveScanArguments(*arguments)
    paths, batch, length, channels = a.u.shape
    shape = (paths, batch, -(-length // SAVE), channels, a.A.shape[2]) if save else (0,)
    return torch.empty_like(a.u, memory_format=torch.contiguous_format), a.A.new_empty(shape)


def _run_backward(grad: Tensor, saved: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    a = _readable(*fields)
    found = run_backward_kernels(a, dense_rows(grad), saved)
    grad_z = grad.new_empty(0) if found.z is None else found.z
    grad_initial = found.A.new_empty(0) if found.initial is None else found.initial
    grad_B, grad_C = (tensor.to(a.B.dtype).contiguous() for tensor in found.BC.unbind(3))
    return found.u, found.delta, found.A, grad_B, grad_C, found.D, grad_z, found.bias, grad_initial


def fake_gradients(grad: Tensor, saved: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    """Empty gradients of all floating-point tensors; of size 0 for missing ones."""
    a = SelectiveScanArguments(*fields)
    absent = a.A.new_empty(0)
    return tuple(
        torch.empty_like(absent if tensor is None else tensor, memory_format=torch.contiguous_format)
        for tensor in a.numbers().values()
    )


def count_scan_flops(u: Any, delta: Any, A: Any, *_: Any) -> int:
    """FLOPs of the forward pass, from shapes."""
    return SELECTIVE_SCAN * math.prod(map(int, u)) * int(A[-1])


def save_scan_arguments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Save the operator's inputs and its states for the backward pass."""
    *fields, _ = inputs
    arguments = SelectiveScanArguments(*fields)
    ctx.softplus = arguments.delta_softplus
    ctx.save_for_backward(output[1], *arguments.tensors().values())
    ctx.set_materialize_grads(False)


def saved_scan_fields(ctx: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """The saved states, and the operator's arguments in order."""
    saved, *tensors = ctx.saved_tensors
    named = dict(zip(SelectiveScanArguments.DIMENSIONS, tensors, strict=True))
    return saved, tuple(named.get(name, ctx.softplus) for name in SelectiveScanArguments.field_names())


def gradients_of_fields(grads: tuple[Tensor, ...], fields: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    """One gradient, or None, for each argument of the operator, `save` last."""
    arguments = SelectiveScanArguments(*fields)
    named = {
        name: None if tensor is None else grad
        for (name, tensor), grad in zip(arguments.numbers().items(), grads, strict=True)
    }
    return (*(named.get(name) for name in SelectiveScanArguments.field_names()), None)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved, fields = saved_scan_fields(ctx)
    return gradients_of_fields(_backward(grad, saved, *fields), fields)


SCHEMA = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor? z, Tensor bias, bool softplus, "
    "Tensor? path, Tensor? segment_starts, Tensor? initial"
)
GRADIENTS = ", ".join(["Tensor"] * 9)
_forward = define_operator(
    "selective_scan",
    f"({SCHEMA}, bool save) -> (Tensor, Tensor)",
    _run,
    _fake_run,
    count_scan_flops,
    save=save_scan_arguments,
    differentiate=_differentiate,
)
_backward = define_operator(
    "selective_scan_backward",
    f"(Tensor grad, Tensor saved, {SCHEMA}) -> ({GRADIENTS})",
    _run_backward,
    fake_gradients,
    lambda grad, saved, *arguments: 2 * count_scan_flops(*arguments),
)
