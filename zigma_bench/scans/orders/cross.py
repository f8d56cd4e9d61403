"""Several straight paths in one layer: VMamba's cross-scan and its equal-compute modes, wrapped diagonals, OSSM.

A layer with K paths scans K * L tokens, as `scans show` and the results table report.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.straight import Path, lines, refuse_clip
from zigma_bench.scans.route import Route


def cross_scan(grid: Grid, *, mode: Literal["cross", "one-way", "two-way", "rotate", "cascade"] = "cross") -> Route:
    """Rows, columns and the reverse of both in every layer, summed, with separate parameters.

    Modes of equal compute: `one-way` is rows four times, `two-way` rows twice and their reverse twice, `rotate` the
    rows of the grid in its four rotations. `cascade` first scans each row forwards and backwards with a new state per
    row, then each column of the result.
    Source: VMamba (arXiv 2401.10166), MzeroMiko/VMamba `csm_triton.py` (scans 0, 1, 2, 3) and `vmamba.py` (cascade2d).
    """
    refuse_clip("cross-scan", grid)
    rows, columns = lines(grid, 0).reshape(-1), lines(grid, 1).reshape(-1)
    if mode == "one-way":
        return Route(np.stack([rows] * 4))
    if mode == "two-way":
        return Route(np.stack([rows, rows, rows[::-1], rows[::-1]]))
    if mode == "rotate":
        square = lines(grid, 0)
        return Route(np.stack([np.rot90(square, turns).reshape(-1) for turns in range(4)]))
    if mode == "cascade":
        down, across = [lines(grid, 1), lines(grid, 0)]
        paths = [across, across[:, ::-1], down, down[:, ::-1]]
        lengths = tuple(np.full(len(path), path.shape[1]) for path in paths)
        return Route(np.stack([path.reshape(-1) for path in paths]), merge="cascade", stages=(2, 2), segments=lengths)
    return Route(np.stack([rows, columns, rows[::-1], columns[::-1]]))


def wrapped_diagonal(grid: Grid, *, anti: bool = False) -> Path:
    """Diagonals that wrap around: for each column k of the first row, (r, (k + r) mod W), or (k - r) mod W if `anti`.

    Source: RS-Mamba (arXiv 2404.02668), walking-shadow/Official_Remote_Sensing_Mamba `rs_mamba_ss.py`.
    """
    refuse_clip("wrapped-diagonal", grid)
    k, r = np.arange(grid.width)[:, None], np.arange(grid.height)[None]
    return (r * grid.width + (k - r if anti else k + r) % grid.width).reshape(-1)


def omnidirectional(grid: Grid) -> Route:
    """Rows, columns, wrapped diagonals, wrapped anti-diagonals, and the reverse of all four in every layer, summed.

    Source: RS-Mamba (arXiv 2404.02668), its omnidirectional selective scan (OSSM).
    """
    refuse_clip("omnidirectional", grid)
    straight = np.stack([lines(grid, 0).reshape(-1), lines(grid, 1).reshape(-1)])
    diagonals = np.stack([wrapped_diagonal(grid), wrapped_diagonal(grid, anti=True)])
    return Route(np.concatenate([straight, straight[:, ::-1], diagonals, diagonals[:, ::-1]]))


def multi_path(grid: Grid, layer: int, seed: int) -> Route:
    """Rows, their reverse and one random order per layer, weighted per sample by a softmax over the three paths.

    The paths share their parameters. Upstream shuffles again in every forward pass, even in evaluation.
    Source: RSMamba (arXiv 2403.19654), KyanChen/RSMamba `mmpretrain/rsmamba/models/models.py`.
    """
    rows = np.arange(grid.tokens)
    shuffled = np.random.default_rng([seed, layer, 1]).permutation(grid.tokens)
    return Route(np.stack([rows, rows[::-1], shuffled]), merge="gate", share="shared")
