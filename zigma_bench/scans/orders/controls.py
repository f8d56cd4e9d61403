"""Random orders as controls for a study: uniformly random, or with the step lengths of another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.curves import hilbert_path, jpeg_path, morton_path, row_path, snake_path
from zigma_bench.scans.orders.straight import Mode, Path, refuse_clip
from zigma_bench.scans.route import Route
from zigma_bench.scans.turns import paths_in_turn

Count = Annotated[int, Interval(ge=1, le=64)]
Draw = Annotated[int, Interval(ge=0, le=2**31 - 1)]
SOURCES: dict[str, Callable[[int, int], Path]] = {
    "raster": row_path, "zigzag": snake_path, "hilbert": hilbert_path, "morton": morton_path, "jpeg": jpeg_path,
}  # fmt: skip
TRIES_A_TOKEN = 16
TOLERANCE = 20  # at most one step in this many may have another length


@paths_in_turn(lambda grid, options: options["paths"] if options["mode"] == "layerwise" else None)
def random(
    grid: Grid,
    layer: int,
    seed: int,
    *,
    paths: Count | None = None,
    mode: Mode = "layerwise",
    draw: Draw | None = None,
) -> Path | Route:
    """Random orders from (seed, number): a new one for each layer, or `paths` of them in turn (or all, if `parallel`).

    `paths: 1` is one random order for all layers. With `parallel`, the default is 2 paths per layer. `draw` fixes the
    orders for all seeds of a row (to those of the seed `draw`), so that the variances of draws and seeds can be told
    apart.
    Source: `randomN` of CompVis/zigma (which draws without a seed).
    """
    seed = seed if draw is None else draw
    if mode == "parallel":
        return Route(np.stack([_random(grid, seed, number) for number in range(paths or 2)]))
    return _random(grid, seed, layer if paths is None else layer % paths)


def _random(grid: Grid, seed: int, number: int) -> Path:
    return np.random.default_rng([seed, number, 0]).permutation(grid.tokens)


@paths_in_turn(lambda grid, options: options["paths"])
def locality_matched(
    grid: Grid,
    layer: int,
    seed: int,
    *,
    of: Literal["raster", "zigzag", "hilbert", "morton", "jpeg"] = "zigzag",
    paths: Count = 1,
) -> Path:
    """A random order with the step lengths of the order `of`: equally local, but without its geometry.

    Layer i uses draw i mod `paths`. A draw starts from `of` and makes 16 L attempts to reverse its beginning or its
    end. An attempt succeeds if the histogram of step lengths (Manhattan) stays within the tolerance: at most 1 step in
    20, or one step, has a different length than in `of`.
    Source: the backbite move on Hamiltonian paths (Mansfield 1982), generalised to any step lengths; the control
    follows pre-registered studies of matched path banks.
    """
    refuse_clip("locality-matched", grid)
    rng = np.random.default_rng([seed, layer % paths, 2])
    return backbite(SOURCES[of](grid.height, grid.width), grid, rng)


def backbite(path: Path, grid: Grid, rng: np.random.Generator) -> Path:
    """A path [L] after 16 L attempts to reverse its beginning or its end, with step lengths within the tolerance."""
    if len(path) < 3:
        return path
    path = path.copy()
    rows, columns = np.divmod(path, grid.width)
    lengths = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
    allowed, off, excess = max(1, len(lengths) // TOLERANCE), 0, [0] * (grid.height + grid.width)
    place = np.argsort(path)
    for (down, right), head in _drawn(lengths, grid, rng, TRIES_A_TOKEN * len(path)):
        end = int(path[0 if head else -1])
        row, column = end // grid.width + down, end % grid.width + right
        if not (0 <= row < grid.height and 0 <= column < grid.width):
            continue
        other = int(place[row * grid.width + column])
        near = int(path[other - 1 if head else other + 1])  # the new step replaces the one from here to `other`
        new, old = abs(down) + abs(right), abs(near // grid.width - row) + abs(near % grid.width - column)
        change = 0 if new == old else (excess[new] >= 0) - (excess[old] > 0)
        if off + change > allowed:
            continue
        off += change
        excess[new] += 1
        excess[old] -= 1
        piece = slice(0, other) if head else slice(other + 1, len(path))
        path[piece] = path[piece][::-1].copy()
        place[path[piece]] = np.arange(piece.start, piece.stop)
    return path


def _drawn(lengths: Path, grid: Grid, rng: np.random.Generator, count: int) -> Iterator[tuple[tuple[int, int], bool]]:
    """Attempts: an offset whose length follows the distribution of step lengths, and whether the beginning moves."""
    down, right = (axis.reshape(-1) for axis in np.mgrid[-grid.height + 1 : grid.height, -grid.width + 1 : grid.width])
    order = np.argsort(abs(down) + abs(right), kind="stable")
    sizes = np.bincount(abs(down) + abs(right))
    first = np.cumsum(sizes) - sizes
    chosen = lengths[rng.integers(len(lengths), size=count)]
    index = order[first[chosen] + (rng.random(count) * sizes[chosen]).astype(np.int64)]
    return zip(
        zip(down[index].tolist(), right[index].tolist(), strict=True), (rng.random(count) < 0.5).tolist(), strict=True
    )
