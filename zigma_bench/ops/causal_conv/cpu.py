"""The causal convolution in C++ on the CPU: conv.cpp called through ctypes, forward and backward."""

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

SOURCE = Path(__file__).with_name("conv.cpp")
SIZES = ("batch", "length", "channels", "width", "silu", "threads")


class _Conv(ctypes.Structure):
    """`Conv` of conv.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("path", ctypes.c_void_p),
        ("since", ctypes.c_void_p),
        ("x", Rows),
        ("y", Rows),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("grad_y", Rows),
        ("grad_x", Rows),
        ("grad_weight", ctypes.c_void_p),
        ("grad_bias", ctypes.c_void_p),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    loaded = library(SOURCE)
    loaded.conv_arguments_bytes.restype = ctypes.c_int64
    for name in ("conv_forward", "conv_backward"):
        answering(getattr(loaded, name), _Conv)
    assert loaded.conv_arguments_bytes() == ctypes.sizeof(_Conv)
    return loaded


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor | None, since: Tensor | None, silu: bool
) -> Tensor:
    """See `causal_conv`; all tensors are float32 on the CPU. Views with dense rows are read in place."""
    x, weight = dense_rows(x), weight.contiguous()
    bias, path, since = (None if tensor is None else tensor.contiguous() for tensor in (bias, path, since))
    y: Tensor = _Differentiable.apply(x, weight, bias, path, since, silu)
    return y


def _describe(
    x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor | None, since: Tensor | None, silu: bool
) -> _Conv:
    call = _Conv(*x.shape, weight.shape[1], int(silu), torch.get_num_threads())
    call.path, call.since, call.weight, call.bias = map(address, (path, since, weight, bias))
    call.x = Rows.of(x)
    return call


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        path: Tensor | None,
        since: Tensor | None,
        silu: bool,
    ) -> Tensor:
        y = torch.empty(x.shape)
        call = _describe(x, weight, bias, path, since, silu)
        call.y = Rows.of(y)
        _library().conv_forward(call)
        ctx.save_for_backward(x, weight, bias, path, since)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, path, since = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.empty(x.shape), torch.empty(weight.shape), torch.empty(x.shape[2])
        grad_y = dense_rows(grad_y)
        call = _describe(x, weight, bias, path, since, ctx.silu)
        call.grad_y, call.grad_x = Rows.of(grad_y), Rows.of(grad_x)
        call.grad_weight, call.grad_bias = address(grad_weight), address(grad_bias)
        _library().conv_backward(call)
        return grad_x, grad_weight, None if bias is None else grad_bias, None, None, None
