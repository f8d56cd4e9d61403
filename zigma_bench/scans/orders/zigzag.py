"""Serpentines: lines that turn at each end, so that every step goes to a neighbour. ZigMa's, and those after it."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from zigma_bench.errors import NotReady
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.straight import Mode, Path, lines, refuse_clip, refuse_picture, serpentine
from zigma_bench.scans.route import Route

# DiffMa's numbering of the eight serpentines by ZigMa's; its code then runs the inverse of each.
DIFFMA = (7, 0, 1, 2, 3, 4, 5, 6)
START, RIGHT, LEFT, UP, DOWN = range(5)


def zigzag(
    grid: Grid,
    layer: int,
    *,
    paths: Annotated[int, Interval(ge=1, le=8)] = 8,
    mode: Mode = "layerwise",
    compatibility: Literal["none", "diffma"] = "none",
) -> Path | Route:
    """Layer i follows serpentine i mod paths of ZigMa's eight: rows and columns from each of the four corners.

    `parallel` walks the first `paths` in every layer with parameters of their own (upstream has the paths, and no
    forward). `compatibility: diffma` gives what DiffMa's "zig" runs: its numbering, and the inverse of each path.
    Source: ZigMa (arXiv 2403.13802), CompVis/zigma `utils/utils_zigzag.py`; rectangles by the same formulas.
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

    `plain-mamba` shares its parameters and adds a learned vector of the step's direction to B. `lamamba-diff` has own
    parameters a path and starts its columns at the bottom left. `diffma` is what DiffMa's "VMamba" baseline runs: two
    of its four paths are the inverses of columns.
    Source: PlainMamba (arXiv 2403.17695), ChenhongyiYang/PlainMamba `plain_mamba_layer.py` (whose released code
    reorders the output of the convolution alone; here every tensor of the scan follows the path); LaMamba-Diff,
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
    """How each step [L] was reached: 0 the start, 1 to the right, 2 to the left, 3 up, 4 down; rows before columns."""
    rows, columns = np.divmod(path, grid.width)
    down, right = np.diff(rows), np.diff(columns)
    moves = np.select([down > 0, down < 0, right > 0, right < 0], [DOWN, UP, RIGHT, LEFT], START)
    return np.concatenate(([START], moves))


def zigzag_video(grid: Grid, layer: int, *, order: str = "sst") -> Route:
    """A letter a layer: `s` walks a zigzag in every frame by itself, `t` walks through time in every place by itself.

    The n-th s layer takes serpentine n mod 8; t layers go forwards and backwards by turns; the state starts anew at
    each frame or place. Upstream swaps the inverses of its t layers, so its frames come back in reversed time; here
    the inverse is derived.
    Source: ZigMa (arXiv 2403.13802), CompVis/zigma `model_zigma.py` (`zzvideo_sst` and its kin).
    """
    if set(order) != {"s", "t"}:
        raise NotReady(
            "the order of a factorised video is a text of the letters s and t, with both in it",
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
