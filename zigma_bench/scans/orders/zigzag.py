"""Serpentines: lines that alternate in direction, so that every step goes to a neighbour. ZigMa's and related ones."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from zigma_bench.errors import NotReady
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.straight import Mode, Path, lines, refuse_clip, refuse_picture, serpentine
from zigma_bench.scans.route import Route
from zigma_bench.scans.turns import paths_in_turn

# DiffMa's serpentine i is ZigMa's serpentine DIFFMA[i]. DiffMa's code then runs the inverse of each.
DIFFMA = (7, 0, 1, 2, 3, 4, 5, 6)
START, RIGHT, LEFT, UP, DOWN = range(5)


@paths_in_turn(lambda grid, options: options["paths"] if options["mode"] == "layerwise" else None)
def zigzag(
    grid: Grid,
    layer: int,
    *,
    paths: Annotated[int, Interval(ge=1, le=8)] = 8,
    mode: Mode = "layerwise",
    compatibility: Literal["none", "diffma"] = "none",
) -> Path | Route:
    """Layer i follows serpentine i mod `paths` of ZigMa's eight: rows and columns from each of the four corners.

    `parallel` scans the first `paths` serpentines in every layer with separate parameters (upstream defines these paths
    but no forward pass). `compatibility: diffma` is DiffMa's "zig": its numbering, and the inverse of each path.
    Source: ZigMa (arXiv 2403.13802), CompVis/zigma `utils/utils_zigzag.py`; rectangles use the same formulas.
    """
    refuse_clip("zigzag", grid)
    if mode == "parallel":
        return Route(np.stack([_zigzag(grid, number, compatibility) for number in range(paths)]))
    return _zigzag(grid, layer % paths, compatibility)


def _zigzag(grid: Grid, number: int, compatibility: str) -> Path:
    if compatibility == "diffma":
        return np.argsort(serpentine(lines(grid, DIFFMA[number])))
    return serpentine(lines(grid, number))


def continuous(grid: Grid, *, variant: Literal["plain-mamba", "lamamba-diff", "diffma"] = "plain-mamba") -> Route:
    """Four serpentines in every layer, summed: by rows and by columns from the top left, and the reverse of each.

    `plain-mamba` shares the parameters and adds a learned vector for the direction of each step to B. `lamamba-diff`
    has separate parameters per path and starts its columns at the bottom left. `diffma` is DiffMa's "VMamba" baseline:
    two of its four paths are the inverses of columns.
    Source: PlainMamba (arXiv 2403.17695), ChenhongyiYang/PlainMamba `plain_mamba_layer.py` (the released code reorders
    only the output of the convolution; here every input of the scan follows the path); LaMamba-Diff,
    yunxiangfu2001/LaMamba-Diff `continuous_scan.py`; wongzbb/DiffMa-Diffusion-Mamba `tools.py`.
    """
    refuse_clip("continuous", grid)
    rows = serpentine(lines(grid, 0))
    columns = serpentine(lines(grid, 5 if variant == "lamamba-diff" else 1))
    if variant == "diffma":
        time = np.argsort(columns)
        return Route(np.stack([rows, time, rows[::-1], time[::-1]]))
    paths = np.stack([rows, rows[::-1], columns, columns[::-1]])
    if variant == "lamamba-diff":
        return Route(paths)
    return Route(paths, share="shared", step_feature=np.stack([directions(path, grid) for path in paths]))


def directions(path: Path, grid: Grid) -> Path:
    """The direction of each step [L]: 0 start, 1 right, 2 left, 3 up, 4 down. A change of row takes precedence."""
    rows, columns = np.divmod(path, grid.width)
    down, right = np.diff(rows), np.diff(columns)
    moves = np.select([down > 0, down < 0, right > 0, right < 0], [DOWN, UP, RIGHT, LEFT], START)
    return np.concatenate(([START], moves))


def zigzag_video(grid: Grid, layer: int, *, order: str = "sst") -> Route:
    """One letter per layer: `s` scans a zigzag within each frame, `t` scans through time at each grid position.

    The n-th s layer uses serpentine n mod 8. The t layers alternate between forwards and backwards. Each frame or
    position is a segment with a new state. Upstream swaps the inverses of its t layers, which reverses the frames in
    time; here the inverse is derived from the path.
    Source: ZigMa (arXiv 2403.13802), CompVis/zigma `model_zigma.py` (`zzvideo_sst` and similar).
    """
    if set(order) != {"s", "t"}:
        raise NotReady(
            "the order of zigzag-video consists of the letters s and t, each at least once",
            expected="such as sst, st, ts, sstt or stst",
            got=order,
        )
    refuse_picture("zigzag-video", grid)
    kind = order[layer % len(order)]
    number = sum(order[i % len(order)] == kind for i in range(layer))
    if kind == "s":
        frame = serpentine(lines(Grid(grid.height, grid.width), number % 8))
        starts = np.arange(grid.frames) * len(frame)
        return Route((starts[:, None] + frame).reshape(-1), segments=(np.full(grid.frames, len(frame)),))
    places = np.arange(grid.tokens).reshape(grid.frames, -1).T
    path = (places[:, ::-1] if number % 2 else places).reshape(-1)
    return Route(path, segments=(np.full(len(places), grid.frames),))
