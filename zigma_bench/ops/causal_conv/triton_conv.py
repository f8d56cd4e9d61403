"""The causal convolution in Triton, as an operator that PyTorch knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import dense_rows
from zigma_bench.ops.causal_conv.fused import flops
from zigma_bench.ops.causal_conv.triton_kernels import conv as conv_kernel
from zigma_bench.ops.causal_conv.triton_kernels import conv_gradients
from zigma_bench.ops.cuda.library import define
from zigma_bench.ops.triton_device import current, strides

STEPS, CHANNELS = 32, 64  # of a program


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor | None, since: Tensor | None, silu: bool
) -> Tensor:
    """See `causal_conv`; x in any dtype that the kernels read, y in the same."""
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    y: Tensor = _forward(x, weight.float(), bias.float(), path, since, silu)
    return y


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _grid(x: Tensor) -> tuple[int, int, int]:
    return -(-x.shape[2] // CHANNELS), -(-x.shape[1] // STEPS), x.shape[0]


def _run(x: Tensor, weight: Tensor, bias: Tensor, path: Tensor | None, since: Tensor | None, silu: bool) -> Tensor:
    x, y = dense_rows(x), _rows_like(x)
    with current(x.device):
        conv_kernel[_grid(x)](
            x, y, *_contiguous(weight, bias, path, since), *strides(x, y), x.shape[1], x.shape[2],
            W=weight.shape[1], T=STEPS, E=CHANNELS, SILU=silu,
        )  # fmt: skip
    return y


def _run_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, path: Tensor | None, since: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, grad, of_x, grid = dense_rows(x), dense_rows(grad), _rows_like(x), _grid(x)
    W = weight.shape[1]
    grads = torch.empty((W + 1, x.shape[0], grid[1], x.shape[2]), dtype=torch.float32, device=x.device)
    with current(x.device):
        conv_gradients[grid](
            x, grad, *_contiguous(weight, bias, path, since), of_x, grads, *strides(x, grad), x.shape[1], x.shape[2],
            W=W, T=STEPS, E=CHANNELS, SILU=silu,
        )  # fmt: skip
    summed = grads.sum((1, 2))
    return of_x, summed[:-1].t().contiguous(), summed[-1]


def _rows_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors, ctx.silu), None, None, None)


_forward = define(
    "triton_causal_conv",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? path, Tensor? since, bool silu) -> Tensor",
    _run,
    lambda x, weight, bias, path, since, silu: _rows_like(x),
    flops,
    keep=_keep,
    differentiate=_differentiate,
    devices=("cuda", "cpu"),
)
_backward = define(
    "triton_causal_conv_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor? path, Tensor? since, bool silu)"
    " -> (Tensor, Tensor, Tensor)",
    _run_backward,
    lambda grad, x, weight, bias, path, since, silu: tuple(_rows_like(tensor) for tensor in (x, weight, bias)),
    lambda grad, *arguments: 2 * flops(*arguments),
    devices=("cuda", "cpu"),
)
