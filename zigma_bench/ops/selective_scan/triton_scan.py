"""The selective scan in Triton, as a registered operator of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import contiguous, dense_rows
from zigma_bench.ops.cuda.library import define_operator
from zigma_bench.ops.selective_scan import SelectiveScanArguments
from zigma_bench.ops.selective_scan.fused import (
    GRADIENTS,
    SCHEMA,
    count_scan_flops,
    fake_gradients,
    gradients_of_fields,
    save_scan_arguments,
    saved_scan_fields,
)
from zigma_bench.ops.selective_scan.launch import SAVE
from zigma_bench.ops.selective_scan.triton_launch import run_triton_backward, run_triton_forward


def triton_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    """See `selective_scan`; the kernels read rows of any dtype, and the output has u's."""
    a = arguments
    D = a.A.new_zeros(a.A.shape[0]) if a.D is None else a.D
    bias = a.A.new_zeros(a.A.shape[0]) if a.delta_bias is None else a.delta_bias
    initial = None if a.initial is None else a.initial.float()
    y: Tensor = _forward(
        a.u, a.delta, a.A.float(), a.B, a.C, D.float(), a.z, bias.float(), a.delta_softplus, a.path,
        a.segment_starts, initial, a.needs_grad(),
    )[0]  # fmt: skip
    return y


def _readable(*fields: Any) -> SelectiveScanArguments:
    """The arguments as the kernels read them: rows with adjacent numbers."""
    a = SelectiveScanArguments(*fields)
    return SelectiveScanArguments(
        dense_rows(a.u), dense_rows(a.delta), a.A, dense_rows(a.B), dense_rows(a.C), contiguous(a.D),
        None if a.z is None else dense_rows(a.z), contiguous(a.delta_bias), a.delta_softplus, contiguous(a.path),
        contiguous(a.segment_starts), a.initial,
    )  # fmt: skip


def _run(*fields: Any) -> tuple[Tensor, Tensor]:
    *arguments, save = fields
    return run_triton_forward(_readable(*arguments), save=save)


def _fake_run(*fields: Any) -> tuple[Tensor, Tensor]:
    *arguments, save = fields
    a = SelectiveScanArguments(*arguments)
    batch, length, channels, states = a.sizes
    shape = (batch, -(-length // SAVE), states, channels) if save else (0,)
    return torch.empty_like(a.u, memory_format=torch.contiguous_format), a.A.new_empty(shape)


def _run_backward(grad: Tensor, saved: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    a = _readable(*fields)
    found = run_triton_backward(a, dense_rows(grad), saved)
    grad_B, grad_C = found.BC.unbind(2)
    grad_z = grad.new_empty(0) if found.z is None else found.z
    grad_initial = a.A.new_empty(0) if found.initial is None else found.initial
    rows = (found.u, found.delta, found.A, grad_B.to(a.B.dtype).contiguous(), grad_C.to(a.C.dtype).contiguous())
    return (*rows, found.D, grad_z, found.bias, grad_initial)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved, fields = saved_scan_fields(ctx)
    return gradients_of_fields(_backward(grad, saved, *fields), fields)


_forward = define_operator(
    "triton_selective_scan",
    f"({SCHEMA}, bool save) -> (Tensor, Tensor)",
    _run,
    _fake_run,
    count_scan_flops,
    save=save_scan_arguments,
    differentiate=_differentiate,
    devices=("cuda", "cpu"),
)
_backward = define_operator(
    "triton_selective_scan_backward",
    f"(Tensor grad, Tensor saved, {SCHEMA}) -> ({GRADIENTS})",
    _run_backward,
    fake_gradients,
    lambda grad, saved, *arguments: 2 * count_scan_flops(*arguments),
    devices=("cuda", "cpu"),
)
