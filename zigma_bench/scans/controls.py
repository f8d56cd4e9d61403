"""Random orders, the controls that make a study honest: any order, or one that steps as far as a given one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from zigma_bench.grid import Grid
from zigma_bench.scans.curves import hilbert_path, jpeg_path, morton_path, row_path, snake_path
from zigma_bench.scans.route import Route
from zigma_bench.scans.straight import Mode, Path, refuse_clip

Count = Annotated[int, Interval(ge=1, le=64)]
SOURCES: dict[str, Callable[[int, int], Path]] = {
    "raster": row_path, "zigzag": snake_path, "hilbert": hilbert_path, "morton": morton_path, "jpeg": jpeg_path,
}  # fmt: skip
MOVES_A_TOKEN = 8


def random(grid: Grid, layer: int, seed: int, *, paths: Count | None = None, mode: Mode = "layerwise") -> Path | Route:
    """Random orders drawn from (seed, number): each layer its own, or `paths` of them by turns or in every layer.

    `paths: 1` is one random order for all layers; `parallel` needs `paths` and takes 2 without.
    Source: `randomN` of CompVis/zigma (which draws without a seed).
    """
    if mode == "parallel":
        return Route(np.stack([_random(grid, seed, number) for number in range(paths or 2)]))
    return _random(grid, seed, layer if paths is None else layer % paths)


def _random(grid: Grid, seed: int, number: int) -> Path:
    return np.random.default_rng([seed, number, 0]).permutation(grid.tokens)


def locality_matched(
    grid: Grid,
    layer: int,
    seed: int,
    *,
    of: Literal["raster", "zigzag", "hilbert", "morton", "jpeg"] = "zigzag",
    paths: Count = 1,
) -> Path:
    """A random order with exactly the step lengths of the order `of`: as local, and no geometry.

    Layer i takes draw i mod paths. A draw starts from `of` and turns its beginning or its end around (8 L tries),
    wherever the step that this makes is as long (Manhattan) as the step that it breaks. The histogram of step lengths
    is therefore kept exactly.
    Source: the backbite move on Hamiltonian paths (Mansfield 1982), for any multiset of steps; the control is that of
    pre-registered studies of matched path banks.
    """
    refuse_clip("locality-matched", grid)
    rng = np.random.default_rng([seed, layer % paths, 2])
    return backbite(SOURCES[of](grid.height, grid.width), grid, rng)


def backbite(path: Path, grid: Grid, rng: np.random.Generator) -> Path:
    """A path [L] after 8 L tries to turn its beginning or its end around; the multiset of its step lengths stays."""
    if len(path) < 3:
        return path
    path = path.copy()
    rows, columns = np.divmod(path, grid.width)
    offsets = _offsets(np.abs(np.diff(rows)) + np.abs(np.diff(columns)), grid)
    place = np.empty_like(path)
    place[path] = np.arange(len(path))
    tries = MOVES_A_TOKEN * len(path)
    drawn = offsets[rng.integers(len(offsets), size=tries)].tolist()
    last = len(path) - 1
    for (down, right), head in zip(drawn, (rng.random(tries) < 0.5).tolist(), strict=True):
        end = int(path[0 if head else last])
        row, column = end // grid.width + down, end % grid.width + right
        if not (0 <= row < grid.height and 0 <= column < grid.width):
            continue
        other = int(place[row * grid.width + column])
        cut = other - 1 if head else other + 1  # the step between `cut` and `other` gives way to one from the end
        near = int(path[cut])
        if abs(near // grid.width - row) + abs(near % grid.width - column) != abs(down) + abs(right):
            continue
        piece = slice(0, other) if head else slice(other + 1, last + 1)
        path[piece] = path[piece][::-1].copy()
        place[path[piece]] = np.arange(piece.start, piece.stop)
    return path


def _offsets(lengths: Path, grid: Grid) -> Path:
    """Every (down, right) on the grid as long as some step: [n, 2]."""
    down, right = np.mgrid[-grid.height + 1 : grid.height, -grid.width + 1 : grid.width]
    fits = np.isin(abs(down) + abs(right), np.unique(lengths)) & ((down != 0) | (right != 0))
    return np.stack([down[fits], right[fits]], axis=1)
