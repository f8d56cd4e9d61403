"""The modulated norm in C++ on the CPU: norm.cpp, called through ctypes; one pass forward and one backward."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.compiler import address, declare_function, load_library
from zigma_bench.ops.norms import ModulatedNormArguments

SOURCE = Path(__file__).with_name("norm.cpp")
SIZES = ("batch", "length", "width", "threads")
INPUTS = ("r", "x", "weight", "shift", "scale")
OUTPUTS = ("sum", "inverse", "normed", "modulated")
GRADS = ("grad_sum", "grad_normed", "grad_modulated", "grad_r", "grad_weight", "grad_shift", "grad_scale")


class _NormCall(ctypes.Structure):
    """`Norm` of norm.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in (*INPUTS, *OUTPUTS, *GRADS)),
    )


@functools.cache
def _norm_library() -> ctypes.CDLL:
    loaded = load_library(SOURCE)
    loaded.norm_arguments_bytes.restype = ctypes.c_int64
    for name in ("norm_forward", "norm_backward"):
        declare_function(getattr(loaded, name), _NormCall)
    assert loaded.norm_arguments_bytes() == ctypes.sizeof(_NormCall)
    return loaded


def cpu_modulated_norm(arguments: ModulatedNormArguments) -> tuple[Tensor, Tensor, Tensor]:
    """See `modulated_norm`; all tensors are float32 on the CPU."""
    a = arguments
    outputs: tuple[Tensor, Tensor, Tensor] = _CpuModulatedNorm.apply(a.r, a.x, a.weight, a.shift, a.scale, a.eps)
    return outputs


def _call_norm(function: str, shape: torch.Size, eps: float, **tensors: Tensor | None) -> None:
    call = _NormCall(*shape, torch.get_num_threads(), eps)
    for name, tensor in tensors.items():
        setattr(call, name, address(tensor))
    getattr(_norm_library(), function)(call)


class _CpuModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, r: Tensor, x: Tensor | None, weight: Tensor, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight, shift, scale = (tensor.contiguous() for tensor in (weight, shift, scale))
        total, normed, modulated = (torch.empty(r.shape) for _ in range(3))
        inverse = torch.empty(r.shape[:2])
        _call_norm(
            "norm_forward", r.shape, eps, r=r.contiguous(), x=None if x is None else x.contiguous(), weight=weight,
            shift=shift, scale=scale, sum=total, inverse=inverse, normed=normed, modulated=modulated,
        )  # fmt: skip
        ctx.save_for_backward(total, inverse, weight, scale)
        ctx.eps, ctx.added = eps, x is not None
        ctx.set_materialize_grads(False)
        return total, normed, modulated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, inverse, weight, scale = ctx.saved_tensors
        of_sum, of_normed, of_modulated = (None if grad is None else grad.contiguous() for grad in grads)
        grad_r, grad_weight = torch.empty(total.shape), torch.empty(weight.shape)
        grad_shift, grad_scale = torch.empty(scale.shape), torch.empty(scale.shape)
        _call_norm(
            "norm_backward", total.shape, ctx.eps, weight=weight, scale=scale, sum=total, inverse=inverse,
            grad_sum=of_sum, grad_normed=of_normed, grad_modulated=of_modulated, grad_r=grad_r,
            grad_weight=grad_weight, grad_shift=grad_shift, grad_scale=grad_scale,
        )  # fmt: skip
        return grad_r, grad_r if ctx.added else None, grad_weight, grad_shift, grad_scale, None
