"""The selective scan in C++ on the CPU: scan.cpp, called through ctypes, forward and backward."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.arguments import contiguous, dense_rows
from zigma_bench.ops.compiler import RowsView, address, declare_function, load_library
from zigma_bench.ops.selective_scan import SelectiveScanArguments

SOURCE = Path(__file__).with_name("scan.cpp")
SIZES = ("batch", "length", "channels", "states", "softplus", "threads")


class _ScanCall(ctypes.Structure):
    """`Scan` of scan.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("path", ctypes.c_void_p),
        ("segment_starts", ctypes.c_void_p),
        *((name, RowsView) for name in ("u", "delta", "z", "B", "C", "out")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias", "initial", "starts")),
        *((name, RowsView) for name in ("grad_out", "grad_u", "grad_delta", "grad_z")),
        *((name, ctypes.c_void_p) for name in ("grad_B", "grad_C", "grad_A", "grad_D", "grad_bias", "grad_initial")),
    )


@functools.cache
def _scan_library() -> ctypes.CDLL:
    loaded = load_library(SOURCE)
    for name in ("scan_arguments_bytes", "scan_chunk", "scan_lanes"):
        getattr(loaded, name).restype = ctypes.c_int64
    for name in ("scan_forward", "scan_backward"):
        declare_function(getattr(loaded, name), _ScanCall)
    assert loaded.scan_arguments_bytes() == ctypes.sizeof(_ScanCall)
    return loaded


def cpu_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    """See `selective_scan`; all tensors are float32 on the CPU. Views with dense rows are read in place."""
    a = arguments
    call = (
        dense_rows(a.u), dense_rows(a.delta), a.A.contiguous(), dense_rows(a.B), dense_rows(a.C), contiguous(a.D),
        None if a.z is None else dense_rows(a.z), contiguous(a.delta_bias), a.delta_softplus, contiguous(a.path),
        contiguous(a.segment_starts), contiguous(a.initial),
    )  # fmt: skip
    if a.needs_grad():
        out: Tensor = _CpuSelectiveScan.apply(*call)
        return out
    return _run_forward(SelectiveScanArguments(*call), starts=None)


def _describe(a: SelectiveScanArguments, starts: Tensor | None) -> _ScanCall:
    call = _ScanCall(*a.sizes, int(a.delta_softplus), torch.get_num_threads())
    call.path, call.segment_starts = map(address, (a.path, a.segment_starts))
    call.A, call.D, call.bias, call.initial, call.starts = map(address, (a.A, a.D, a.delta_bias, a.initial, starts))
    call.u, call.delta, call.z, call.B, call.C = map(RowsView.of, (a.u, a.delta, a.z, a.B, a.C))
    return call


def _run_forward(a: SelectiveScanArguments, starts: Tensor | None) -> Tensor:
    """`starts`: memory for the states at the starts of the chunks, for the backward pass."""
    out = torch.empty(a.u.shape)
    call = _describe(a, starts)
    call.out = RowsView.of(out)
    _scan_library().scan_forward(call)
    return out


def _empty_starts(a: SelectiveScanArguments) -> Tensor:
    """Memory for the states at the starts of the chunks, in the layout of scan.cpp."""
    chunk, lanes = _scan_library().scan_chunk(), _scan_library().scan_lanes()
    batch, length, channels, states = a.sizes
    return torch.empty(batch, -(-length // chunk), -(-channels // lanes), states, lanes)


def _run_backward(a: SelectiveScanArguments, starts: Tensor, grad_out: Tensor) -> dict[str, Tensor | None]:
    """A contiguous gradient for each floating-point tensor; C++ always writes those of D and the bias."""
    call = _describe(a, starts)
    grads = {name: None if tensor is None else torch.empty(tensor.shape) for name, tensor in a.numbers().items()}
    grads["D"], grads["delta_bias"] = a.u.new_empty(a.u.shape[2]), a.u.new_empty(a.u.shape[2])
    rows = (grad_out, grads["u"], grads["delta"], grads["z"])
    call.grad_out, call.grad_u, call.grad_delta, call.grad_z = map(RowsView.of, rows)
    call.grad_A, call.grad_B, call.grad_C = (address(grads[name]) for name in "ABC")
    call.grad_D, call.grad_bias, call.grad_initial = (address(grads[name]) for name in ("D", "delta_bias", "initial"))
    _scan_library().scan_backward(call)
    return grads


class _CpuSelectiveScan(torch.autograd.Function):
    """Takes the fields of SelectiveScanArguments one by one, as autograd requires."""

    @staticmethod
    def forward(ctx: Any, *fields: Any) -> Tensor:
        arguments = SelectiveScanArguments(*fields)
        starts = _empty_starts(arguments)
        out = _run_forward(arguments, starts)
        ctx.softplus = arguments.delta_softplus
        ctx.save_for_backward(*arguments.tensors().values(), starts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, starts = ctx.saved_tensors
        named = dict(zip(SelectiveScanArguments.DIMENSIONS, tensors, strict=True))
        arguments = SelectiveScanArguments(**named, delta_softplus=ctx.softplus)
        grads = _run_backward(arguments, starts, dense_rows(grad_out))
        needed = {name: grad for name, grad in grads.items() if named[name] is not None}
        return tuple(needed.get(name) for name in SelectiveScanArguments.field_names())
