"""The causal convolution in Triton, as a registered operator of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import dense_rows
from zigma_bench.ops.causal_conv import CausalConvArguments
from zigma_bench.ops.causal_conv.fused import (
    SCHEMA,
    count_conv_flops,
    empty_like_rows,
    fake_conv,
    fake_conv_gradients,
    readable_conv_arguments,
    save_conv_arguments,
)
from zigma_bench.ops.causal_conv.triton_kernels import conv_gradients_kernel, conv_kernel
from zigma_bench.ops.cuda.library import define_operator
from zigma_bench.ops.triton_device import strides, use_gpu

STEPS, CHANNELS = 32, 64  # per program


def triton_causal_conv(arguments: CausalConvArguments) -> Tensor:
    """See `causal_conv`; the kernels read x of any dtype, and y has the same."""
    a = arguments
    bias = a.weight.new_zeros(a.weight.shape[0]) if a.bias is None else a.bias
    y: Tensor = _forward(a.x, a.weight.float(), bias.float(), a.path, a.segment_starts, a.silu)
    return y


def _launch(kernel: Any, a: CausalConvArguments, rows: Tensor, *written: Tensor) -> None:
    """Launch a kernel over channels, steps and samples; `rows`: y or its gradient."""
    batch, length, channels = a.x.shape
    with use_gpu(a.x.device):
        kernel[-(-channels // CHANNELS), -(-length // STEPS), batch](
            a.x, rows, a.weight, a.bias, a.path, a.segment_starts, *written, *strides(a.x, rows), length, channels,
            W=a.weight.shape[1], T=STEPS, E=CHANNELS, SILU=a.silu,
        )  # fmt: skip


def _run(*fields: Any) -> Tensor:
    a = readable_conv_arguments(*fields)
    y = empty_like_rows(a.x)
    _launch(conv_kernel, a, y)
    return y


def _run_backward(grad: Tensor, *fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    a = readable_conv_arguments(*fields)
    grad_x, (batch, length, channels) = empty_like_rows(a.x), a.x.shape
    shape = (a.weight.shape[1] + 1, batch, -(-length // STEPS), channels)  # sums for each tap and the bias, per tile
    grads = torch.empty(shape, dtype=torch.float32, device=a.x.device)
    _launch(conv_gradients_kernel, a, dense_rows(grad), grad_x, grads)
    summed = grads.sum((1, 2))
    return grad_x, summed[:-1].t().contiguous(), summed[-1]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors, ctx.silu), None, None, None)


_forward = define_operator(
    "triton_causal_conv",
    f"({SCHEMA}) -> Tensor",
    _run,
    fake_conv,
    count_conv_flops,
    save=save_conv_arguments,
    differentiate=_differentiate,
    devices=("cuda", "cpu"),
)
_backward = define_operator(
    "triton_causal_conv_backward",
    f"(Tensor grad, {SCHEMA}) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    fake_conv_gradients,
    lambda grad, *arguments: 2 * count_conv_flops(*arguments),
    devices=("cuda", "cpu"),
)
