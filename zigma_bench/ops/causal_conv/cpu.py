"""The causal convolution in C++ on the CPU: conv.cpp, called through ctypes, forward and backward."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.arguments import contiguous, dense_rows
from zigma_bench.ops.causal_conv import CausalConvArguments
from zigma_bench.ops.compiler import RowsView, address, declare_function, load_library

SOURCE = Path(__file__).with_name("conv.cpp")
SIZES = ("batch", "length", "channels", "width", "silu", "threads")


class _ConvCall(ctypes.Structure):
    """`Conv` of conv.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("path", ctypes.c_void_p),
        ("segment_starts", ctypes.c_void_p),
        ("x", RowsView),
        ("y", RowsView),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("grad_y", RowsView),
        ("grad_x", RowsView),
        ("grad_weight", ctypes.c_void_p),
        ("grad_bias", ctypes.c_void_p),
    )


@functools.cache
def _conv_library() -> ctypes.CDLL:
    loaded = load_library(SOURCE)
    loaded.conv_arguments_bytes.restype = ctypes.c_int64
    for name in ("conv_forward", "conv_backward"):
        declare_function(getattr(loaded, name), _ConvCall)
    assert loaded.conv_arguments_bytes() == ctypes.sizeof(_ConvCall)
    return loaded


def cpu_causal_conv(arguments: CausalConvArguments) -> Tensor:
    """See `causal_conv`; all tensors are float32 on the CPU. Views with dense rows are read in place."""
    a = arguments
    orders = contiguous(a.path), contiguous(a.segment_starts)
    y: Tensor = _CpuCausalConv.apply(dense_rows(a.x), a.weight.contiguous(), contiguous(a.bias), *orders, a.silu)
    return y


def _describe(a: CausalConvArguments) -> _ConvCall:
    call = _ConvCall(*a.x.shape, a.weight.shape[1], int(a.silu), torch.get_num_threads())
    call.path, call.segment_starts, call.weight, call.bias = map(address, (a.path, a.segment_starts, a.weight, a.bias))
    call.x = RowsView.of(a.x)
    return call


class _CpuCausalConv(torch.autograd.Function):
    """Takes the fields of CausalConvArguments one by one, as autograd requires."""

    @staticmethod
    def forward(ctx: Any, *fields: Any) -> Tensor:
        arguments = CausalConvArguments(*fields)
        y = torch.empty(arguments.x.shape)
        call = _describe(arguments)
        call.y = RowsView.of(y)
        _conv_library().conv_forward(call)
        ctx.save_for_backward(*arguments.tensors().values())
        ctx.silu = arguments.silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        a = CausalConvArguments(*(*ctx.saved_tensors, ctx.silu))
        grad_x, grad_weight = torch.empty(a.x.shape), torch.empty(a.weight.shape)
        grad_bias, grad_y = torch.empty(a.x.shape[2]), dense_rows(grad_y)
        call = _describe(a)
        call.grad_y, call.grad_x = RowsView.of(grad_y), RowsView.of(grad_x)
        call.grad_weight, call.grad_bias = address(grad_weight), address(grad_bias)
        _conv_library().conv_backward(call)
        return grad_x, grad_weight, None if a.bias is None else grad_bias, None, None, None
