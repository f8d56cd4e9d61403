"""The causal convolution on an NVIDIA GPU, as a registered operator of PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import contiguous, dense_rows
from zigma_bench.ops.causal_conv import CausalConvArguments
from zigma_bench.ops.causal_conv.launch import run_conv_backward_kernel, run_conv_kernel
from zigma_bench.ops.cuda.library import define_operator


def fused_causal_conv(arguments: CausalConvArguments) -> Tensor:
    """See `causal_conv`: along K paths in one call, [K, B, L, E] in x's dtype. The kernels read rows of any dtype."""
    a = arguments
    bias = a.weight.new_zeros(a.weight.shape[:2]) if a.bias is None else a.bias
    y: Tensor = _forward(a.x, a.weight.float(), bias.float(), a.path, a.segment_starts, a.silu)
    return y


def readable_conv_arguments(*fields: Any) -> CausalConvArguments:
    """The arguments as the kernels read them: x with adjacent channels, all else contiguous."""
    a = CausalConvArguments(*fields)
    bias, path, segment_starts = contiguous(a.bias), contiguous(a.path), contiguous(a.segment_starts)
    return CausalConvArguments(dense_rows(a.x), a.weight.contiguous(), bias, path, segment_starts, a.silu)


def _run(*fields: Any) -> Tensor:
    return run_conv_kernel(readable_conv_arguments(*fields))


def _run_backward(grad: Tensor, *fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    return run_conv_backward_kernel(readable_conv_arguments(*fields), dense_rows(grad))


def empty_like_rows(x: Tensor) -> Tensor:
    """A contiguous empty tensor of the same shape and dtype."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def fake_conv(*fields: Any) -> Tensor:
    """The empty output."""
    return empty_like_rows(fields[0])


def fake_conv_gradients(grad: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    """Empty gradients of x, weight and bias."""
    return tuple(empty_like_rows(tensor) for tensor in fields[:3])


def count_conv_flops(x: Any, weight: Any, *_: Any) -> int:
    """FLOPs of the forward pass, from shapes."""
    return 2 * math.prod(map(int, x)) * int(weight[-1])


def save_conv_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save the operator's inputs for the backward pass."""
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors, ctx.silu), None, None, None)


SCHEMA = "Tensor x, Tensor weight, Tensor bias, Tensor? path, Tensor? segment_starts, bool silu"
_forward = define_operator(
    "causal_conv",
    f"({SCHEMA}) -> Tensor",
    _run,
    fake_conv,
    count_conv_flops,
    save=save_conv_arguments,
    differentiate=_differentiate,
)
_backward = define_operator(
    "causal_conv_backward",
    f"(Tensor grad, {SCHEMA}) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    fake_conv_gradients,
    lambda grad, *arguments: 2 * count_conv_flops(*arguments),
)
