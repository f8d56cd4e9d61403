"""The routes for the checks of backbones and mixers: one path, several paths, and all other features of a route."""

from __future__ import annotations

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import PAD, Route


def test_routes(grid: Grid) -> dict[str, Route]:
    """Routes by name. The first three have one path. Routes with equal numbers of paths have different orders."""
    L = grid.tokens
    raster = np.arange(L)
    columns = raster.reshape(-1, grid.width).T.reshape(-1)
    mixed = np.random.default_rng(0).permutation(L)
    return {
        "raster": Route(raster),
        "columns": Route(columns),
        "a random order": Route(mixed),
        "two paths": Route(np.stack([raster, raster[::-1]])),
        "two other paths": Route(np.stack([columns, mixed])),
        "two paths, shared": Route(np.stack([raster, columns]), share="shared", merge="mean"),
    }


def special_orders(grid: Grid) -> dict[str, Route]:
    """Routes that a mixer may refuse: segments, pads, and the other merges."""
    L = grid.tokens
    raster = np.arange(L)
    two = np.stack([raster, raster[::-1]])
    half = [L // 2, L - L // 2]
    return {
        "segments": Route(raster, segments=(half,)),  # type: ignore[arg-type]
        "pads": Route(np.insert(raster, L // 2, PAD), pads=np.zeros((1, 1), dtype=np.int64)),
        "concat": Route(two, merge="concat"),
        "gate": Route(two, merge="gate"),
        "scatter": Route(np.stack(np.split(raster, 2)), merge="scatter"),
        "cascade": Route(two, merge="cascade"),
    }
