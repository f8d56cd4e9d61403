"""The causal convolution on an NVIDIA card, as an operator that PyTorch knows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import dense_rows
from zigma_bench.ops.causal_conv import launch
from zigma_bench.ops.cuda.library import define


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor | None, since: Tensor | None, silu: bool
) -> Tensor:
    """See `causal_conv`: x in any dtype that the kernels read, along K paths at once; y [K, B, L, E] in the same."""
    bias = weight.new_zeros(weight.shape[:2]) if bias is None else bias
    y: Tensor = _forward(x, weight.float(), bias.float(), path, since, silu)
    return y


def _run(x: Tensor, weight: Tensor, bias: Tensor, path: Tensor | None, since: Tensor | None, silu: bool) -> Tensor:
    return launch.forward(dense_rows(x), weight.contiguous(), bias.contiguous(), *_orders(path, since), silu)


def _run_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, path: Tensor | None, since: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows = dense_rows(grad), dense_rows(x)
    return launch.backward(*rows, weight.contiguous(), bias.contiguous(), *_orders(path, since), silu)


def _orders(path: Tensor | None, since: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return None if path is None else path.contiguous(), None if since is None else since.contiguous()


def _rows_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def flops(x: Any, weight: Any, *_: Any) -> int:
    """Of the forward, from shapes."""
    return 2 * math.prod(map(int, x)) * int(weight[2])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors, ctx.silu), None, None, None)


_forward = define(
    "causal_conv",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? path, Tensor? since, bool silu) -> Tensor",
    _run,
    lambda x, weight, bias, path, since, silu: _rows_like(x),
    flops,
    keep=_keep,
    differentiate=_differentiate,
)
_backward = define(
    "causal_conv_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor? path, Tensor? since, bool silu)"
    " -> (Tensor, Tensor, Tensor)",
    _run_backward,
    lambda grad, x, weight, bias, path, since, silu: (
        _rows_like(x),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        torch.empty_like(bias),
    ),
    lambda grad, *arguments: 2 * flops(*arguments),
)
