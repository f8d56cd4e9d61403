"""The causal convolution in plain torch, on any device: rows gathered in scan order, then one multiply-add a tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor | None, since: Tensor | None, silu: bool
) -> Tensor:
    """See `causal_conv`; all tensors have one dtype, in which it computes."""

    def in_order(*rows: Tensor | None) -> Tensor:
        (x_,) = rows
        assert x_ is not None
        return _conv_in_order(x_, weight, bias, since, silu)

    return along_path(in_order, [x], path)


def along_path(function: Callable[..., Tensor], rows: Sequence[Tensor | None], path: Tensor | None) -> Tensor:
    """A function of rows as they lie, on rows [B, L, E] gathered in the order of a path; its rows are put back."""
    if path is None:
        return function(*rows)
    inverse = torch.empty_like(path).scatter_(0, path, torch.arange(len(path), device=path.device))
    gathered = (None if tensor is None else take_rows(tensor, path, inverse) for tensor in rows)
    return take_rows(function(*gathered), inverse, path)


def _conv_in_order(x: Tensor, weight: Tensor, bias: Tensor | None, since: Tensor | None, silu: bool) -> Tensor:
    length, width = x.shape[1], weight.shape[1]
    age = None if since is None else torch.arange(length, device=since.device) - since  # steps since the segment began
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
    """x[:, path], whose backward gathers by the inverse: indexing's own adds up with atomics, or sorts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, path: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(1, path)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(1, inverse), None, None
