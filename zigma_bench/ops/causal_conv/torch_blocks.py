"""The causal convolution in PyTorch's operators, on any device: rows in scan order, one multiply-add for each tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.causal_conv import CausalConvArguments


def torch_causal_conv(arguments: CausalConvArguments) -> Tensor:
    """See `causal_conv`; computes in the dtype of its arguments, which is the same for all."""
    a = arguments

    def in_order(*rows: Tensor | None) -> Tensor:
        (x,) = rows
        assert x is not None
        return _conv_in_order(x, a.weight, a.bias, a.segment_starts, a.silu)

    return along_path(in_order, [a.x], a.path)


def along_path(function: Callable[..., Tensor], rows: Sequence[Tensor | None], path: Tensor | None) -> Tensor:
    """Apply a function of rows in storage order to rows [B, L, E] gathered along a path; scatter its rows back."""
    if path is None:
        return function(*rows)
    inverse = torch.empty_like(path).scatter_(0, path, torch.arange(len(path), device=path.device))
    gathered = (None if tensor is None else take_rows(tensor, path, inverse) for tensor in rows)
    return take_rows(function(*gathered), inverse, path)


def _conv_in_order(x: Tensor, weight: Tensor, bias: Tensor | None, segment_starts: Tensor | None, silu: bool) -> Tensor:
    length, width = x.shape[1], weight.shape[1]
    age = (
        None if segment_starts is None else torch.arange(length, device=segment_starts.device) - segment_starts
    )  # the number of each step within its segment
    y = x * weight[:, -1]
    for shift in range(1, min(width, length)):
        tap = x[:, :-shift] * weight[:, -1 - shift]
        if age is not None:
            tap = tap.masked_fill((age[shift:] < shift)[:, None], 0)
        y = y + F.pad(tap, (0, 0, shift, 0))
    y = y if bias is None else y + bias
    return F.silu(y) if silu else y


def take_rows(x: Tensor, path: Tensor, inverse: Tensor) -> Tensor:
    """x[:, path] for x [B, L, E]; `inverse[path[i]] = i`."""
    rows: Tensor = _TakeRows.apply(x, path, inverse)
    return rows


class _TakeRows(torch.autograd.Function):
    """x[:, path], whose backward pass gathers by the inverse; that of PyTorch's indexing sorts or uses atomics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, path: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(1, path)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(1, inverse), None, None
