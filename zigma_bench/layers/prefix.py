"""Prefix tokens: time, class or text as tokens before those of the grid (U-ViT, DiS), and routes that scan them first.

B batch, L tokens of the grid, P prefix tokens, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zigma_bench.errors import NotReady
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import PAD, Route

if TYPE_CHECKING:
    from torch import Tensor


def with_prefix(prefix: list[Tensor], x: Tensor) -> Tensor:
    """Prepend vectors [B, D] or tokens [B, P, D] to x [B, L, D] -> [B, P + L, D]."""
    import torch

    tokens = [part[:, None] if part.ndim == 2 else part for part in prefix]
    return torch.cat([part.to(x.dtype) for part in tokens] + [x], dim=1)


def without_prefix(x: Tensor, grid: Grid) -> Tensor:
    """Remove the prefix tokens: [B, P + L, D] -> [B, L, D]."""
    return x[:, -grid.tokens :]


def prefixed_grid(grid: Grid, count: int) -> Grid:
    """A grid with as many tokens as the grid and `count` prefix tokens, for a mixer and its cost."""
    return Grid(1, grid.tokens + count)


def prefixed_route(route: Route, count: int) -> Route:
    """The route with `count` prefix tokens first in every path, in one segment with the rest (ZigMa's `extras`)."""
    if route.segments is not None or route.merge_facts.splits_tokens or route.step_feature is not None or route.learned:
        raise NotReady(
            "prefix tokens need a scan with one segment, paths over all tokens, no step features and no learned order",
            do="use another scan, or a backbone without prefix tokens",
        )
    paths = np.where(route.paths == PAD, PAD, route.paths + count)
    first = np.tile(np.arange(count), (route.K, 1))
    return replace(route, paths=np.concatenate((first, paths), axis=1))
