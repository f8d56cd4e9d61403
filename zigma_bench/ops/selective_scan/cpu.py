"""The selective scan in C++ on the CPU: scan.cpp called through ctypes, forward and backward."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.arguments import Rows, address, dense_rows
from zigma_bench.ops.compiler import answering, library

SOURCE = Path(__file__).with_name("scan.cpp")
SIZES = ("batch", "length", "channels", "states", "softplus", "threads")


class _Scan(ctypes.Structure):
    """`Scan` of scan.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("path", ctypes.c_void_p),
        ("since", ctypes.c_void_p),
        *((name, Rows) for name in ("u", "delta", "z", "B", "C", "out")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias", "initial", "starts")),
        *((name, Rows) for name in ("grad_out", "grad_u", "grad_delta", "grad_z")),
        *((name, ctypes.c_void_p) for name in ("grad_B", "grad_C", "grad_A", "grad_D", "grad_bias", "grad_initial")),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    loaded = library(SOURCE)
    for name in ("scan_arguments_bytes", "scan_chunk", "scan_lanes"):
        getattr(loaded, name).restype = ctypes.c_int64
    for name in ("scan_forward", "scan_backward"):
        answering(getattr(loaded, name), _Scan)
    assert loaded.scan_arguments_bytes() == ctypes.sizeof(_Scan)
    return loaded


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
    """See `selective_scan`; all tensors are float32 on the CPU. Views with dense rows are read in place."""
    u, delta, B, C = (dense_rows(tensor) for tensor in (u, delta, B, C))
    z = None if z is None else dense_rows(z)
    A, optional = A.contiguous(), (D, delta_bias, path, since, initial)
    D, delta_bias, path, since, initial = (None if tensor is None else tensor.contiguous() for tensor in optional)
    given = (u, delta, A, B, C, D, z, delta_bias, initial)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        out: Tensor = _Differentiable.apply(*given, delta_softplus, path, since)
        return out
    return _forward(*given, delta_softplus, path, since, starts=None)


def _describe(
    given: tuple[Tensor | None, ...],
    softplus: bool,
    path: Tensor | None,
    since: Tensor | None,
    starts: Tensor | None,
) -> _Scan:
    u, delta, A, B, C, D, z, bias, initial = given
    assert u is not None and A is not None
    call = _Scan(*u.shape, A.shape[1], int(softplus), torch.get_num_threads())
    call.path, call.since = map(address, (path, since))
    call.A, call.D, call.bias, call.initial, call.starts = map(address, (A, D, bias, initial, starts))
    call.u, call.delta, call.z, call.B, call.C = map(Rows.of, (u, delta, z, B, C))
    return call


def _forward(*arguments: Any, starts: Tensor | None) -> Tensor:
    *given, softplus, path, since = arguments
    u: Tensor = given[0]
    out = torch.empty(u.shape)
    call = _describe(tuple(given), softplus, path, since, starts)
    call.out = Rows.of(out)
    _library().scan_forward(call)
    return out


def _empty_starts(u: Tensor, A: Tensor) -> Tensor:
    """Room for the states at the chunks' starts, laid out as scan.cpp likes it."""
    chunk, lanes = _library().scan_chunk(), _library().scan_lanes()
    return torch.empty(u.shape[0], -(-u.shape[1] // chunk), -(-u.shape[2] // lanes), A.shape[1], lanes)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *given, ctx.softplus, path, since = arguments
        starts = _empty_starts(given[0], given[2])
        out = _forward(*arguments, starts=starts)
        ctx.save_for_backward(*given, path, since, starts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        *given, path, since, starts = ctx.saved_tensors
        call = _describe(tuple(given), ctx.softplus, path, since, starts)
        grad_out = dense_rows(grad_out)
        # One gradient for each argument, contiguous; those of D and the bias are computed whether they exist or not.
        u: Tensor = given[0]
        grads = [None if tensor is None else torch.empty(tensor.shape) for tensor in given]
        grads[5], grads[7] = u.new_empty(u.shape[2]), u.new_empty(u.shape[2])
        grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial = grads
        call.grad_out, call.grad_u, call.grad_delta, call.grad_z = map(Rows.of, (grad_out, grad_u, grad_delta, grad_z))
        call.grad_A, call.grad_B, call.grad_C = map(address, (grad_A, grad_B, grad_C))
        call.grad_D, call.grad_bias, call.grad_initial = map(address, (grad_D, grad_bias, grad_initial))
        _library().scan_backward(call)
        return (*(None if given[i] is None else grad for i, grad in enumerate(grads)), None, None, None)
