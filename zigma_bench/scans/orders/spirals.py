"""Spirals around the centre and from the border inwards in eight orientations, and DiffMa's three paths per layer."""

from __future__ import annotations

from typing import Literal

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.curves import Eight, turned
from zigma_bench.scans.orders.straight import Path, refuse_clip
from zigma_bench.scans.route import Route
from zigma_bench.scans.turns import paths_in_turn

# The first two arms of DiffMa's eight spirals as (down, right): four clockwise ones, then four anticlockwise ones.
RIGHT, DOWN, LEFT, UP = (0, 1), (1, 0), (0, -1), (-1, 0)
TURNS = (
    (RIGHT, DOWN), (DOWN, LEFT), (LEFT, UP), (UP, RIGHT),
    (RIGHT, UP), (LEFT, DOWN), (DOWN, RIGHT), (UP, LEFT),
)  # fmt: skip


@paths_in_turn(lambda grid, options: options["turns"])
def spiral(grid: Grid, layer: int, *, turns: Literal[1, 2, 4, 8] = 1, inward: bool = False) -> Path:
    """From (H // 2, W // 2) outwards with arms of 1, 1, 2, 2, 3, 3, ... cells; `inward` reverses it.

    Layer i has orientation i mod `turns` of DiffMa's eight. Cells outside the grid are skipped, so the path has jumps
    on rectangles and on grids with an even side.
    Source: DiffMa (arXiv 2406.15910), wongzbb/DiffMa-Diffusion-Mamba `tools.py`, the curve in its plots.
    """
    refuse_clip("spiral", grid)
    path = outward(grid, layer % turns)
    return path[::-1] if inward else path


@paths_in_turn(lambda grid, options: options["turns"])
def spiral_inverse(grid: Grid, layer: int, *, turns: Literal[1, 2, 4, 8] = 1, inward: bool = False) -> Path:
    """The inverse of the spiral: its map of visit times used as an order, which is what DiffMa's code runs.

    Source: wongzbb/DiffMa-Diffusion-Mamba `tools.py` and `block/mamba.py` (CrossScan).
    """
    return np.argsort(spiral(grid, layer, turns=turns, inward=inward))


@paths_in_turn(lambda grid, options: options["paths"])
def border_spiral(grid: Grid, layer: int, *, paths: Eight = 1, outward: bool = False) -> Path:
    """From a corner along the border, then inwards ring by ring; every step goes to a neighbour on any rectangle.

    Layer i has orientation i mod `paths` of ZigMa's table: from the top left clockwise, from the same corner
    anticlockwise, then so from the other corners. `outward` reverses the path. Unlike `spiral`, it has no jumps.
    Source: the spiral of REOrder (arXiv 2505.23751, d3tk/REOrder) and MHS-VM (arXiv 2406.05992, PixDeep/MHS-VM).
    """
    refuse_clip("border-spiral", grid)
    path = turned(border_path, grid, layer % paths)
    return path[::-1] if outward else path


def border_path(height: int, width: int) -> Path:
    """Clockwise from the top left along the border, then along the border of the rest, and so on."""
    row, column = np.divmod(np.arange(height * width), width)
    ring = np.minimum.reduce([row, column, height - 1 - row, width - 1 - column])
    h, w = height - 2 * ring, width - 2 * ring  # of the rectangle whose border is the ring
    row, column = row - ring, column - ring
    sides = [column, w - 1 + row, 2 * (w - 1) + h - 1 - column, 2 * (w - 1) + 2 * (h - 1) - row]
    step = np.select([row == 0, column == w - 1, row == h - 1], sides[:3], sides[3])
    return np.argsort(height * width - h * w + step)


@paths_in_turn(lambda grid, options: 8)
def diffma(grid: Grid, layer: int, *, compatibility: Literal["none", "diffma"] = "none") -> Route:
    """Raster, a spiral and its reverse in every layer, summed, with shared parameters; orientation i mod 8 in layer i.

    `compatibility: diffma` uses the inverses of the two spirals, as the released code does.
    Source: DiffMa (arXiv 2406.15910), wongzbb/DiffMa-Diffusion-Mamba `block/mamba.py`.
    """
    refuse_clip("diffma", grid)
    out = outward(grid, layer % 8)
    both = [np.argsort(out), np.argsort(out[::-1])] if compatibility == "diffma" else [out, out[::-1]]
    return Route(np.stack([np.arange(grid.tokens), *both]), share="shared")


def outward(grid: Grid, turn: int) -> Path:
    """The spiral from the centre outwards in orientation `turn` (0 to 7) of `TURNS`."""
    first, second = TURNS[turn]
    rows, columns = np.divmod(np.arange(grid.tokens), grid.width)
    down, right = rows - grid.height // 2, columns - grid.width // 2
    along = down * first[0] + right * first[1]
    across = down * second[0] + right * second[1]
    return np.argsort(arrival(along, across))


def arrival(x: Path, y: Path) -> Path:
    """The step at which an infinite spiral visits cell (x, y), with x along its first arm and y along its second.

    Ring m consists of the cells with max(|x|, |y|) = m. It ends at (m, -m) with step 4 m^2 + 4 m.
    """
    m = np.maximum(abs(x), abs(y))
    sides = [4 * m**2 + 3 * m + x, 4 * m**2 + m - y, 4 * m**2 - m - x]
    return np.select([y == -m, x == -m, y == m], sides, 4 * m**2 - 3 * m + y)
