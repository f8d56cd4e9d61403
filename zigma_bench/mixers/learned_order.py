"""Learned orders: the module of a layer that computes an order from each sample's features, with checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import CellFailed
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import LearnedOrder, Route


class LearnedOrderModule(nn.Module):
    """Wraps the module of a learned order: x [B, L, D] -> checked paths int64 [B, K, L] and a weight [B, L] or None."""

    def __init__(self, learned: LearnedOrder, *, paths: int, width: int, grid: Grid) -> None:
        super().__init__()
        self.target, self.paths, self.tokens = learned.target, paths, grid.tokens
        options = learned.make_options(learned.options)
        self.module = learned.load()(options, width=width, grid=grid, layer=learned.layer, depth=learned.depth)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        output: Any = self.module(x)
        if not isinstance(output, tuple) or len(output) != 2:
            raise self._wrong("its output", "a pair: paths, and a weight or None", type(output).__name__)
        paths, weight = output
        shape = (len(x), self.paths, self.tokens)
        self._check("paths", paths, shape, torch.int64)
        if weight is not None:
            self._check("weight", weight, (len(x), self.tokens), None)
        # On a GPU the values are not checked, because reading them would wait for the queued work.
        if paths.device.type == "cpu" and (paths.sort(-1).values != torch.arange(self.tokens)).any():
            raise self._wrong("a path", f"each of the {self.tokens} tokens once", "one missing or twice")
        return paths, weight

    def _check(self, name: str, tensor: Any, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
        right = isinstance(tensor, Tensor) and tuple(tensor.shape) == shape
        if not right or not (tensor.dtype == dtype if dtype else tensor.dtype.is_floating_point):
            got = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise self._wrong(f"its {name}", f"{dtype or 'floating numbers'} {shape}", got)

    def _wrong(self, what: str, expected: str, got: str) -> CellFailed:
        return CellFailed(f"the learned order {self.target!r}: {what} is wrong", expected=expected, got=got)


def make_order(route: Route, *, width: int, grid: Grid) -> LearnedOrderModule | None:
    """The module of a layer's learned order; None for a fixed order."""
    return None if route.learned is None else LearnedOrderModule(route.learned, paths=route.K, width=width, grid=grid)


def apply_order(order: LearnedOrderModule | None, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """The learned paths of each sample (None for a fixed order), and the tokens [B, L, D] times any weight."""
    if order is None:
        return None, x
    paths, weight = order(x)
    return paths, x if weight is None else x * weight[..., None].to(x.dtype)
