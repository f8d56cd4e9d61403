"""Local orders: windows (LocalMamba), dilated subgrids (EfficientVMamba) and stripes (MaIR)."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from zigma_bench.errors import NotReady
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.straight import Path, refuse_clip
from zigma_bench.scans.route import PAD, Route

Side = Annotated[int, Interval(ge=1, le=1024)]
UNSEARCHED = [["h", "h_flip", "w2", "w2_flip"]]


def local(
    grid: Grid,
    *,
    window: Side = 2,
    window_width: Side | None = None,
    columns: bool = False,
    edges: Literal["pad", "cut"] = "pad",
) -> Path:
    """Window by window, row by row inside; `columns` orders the windows and their tokens column by column.

    Windows are `window` x `window_width` (square by default). At the edge of the grid, `pad` fills incomplete windows
    with zero tokens as LocalMamba does, and `cut` makes them smaller.
    Source: LocalMamba (arXiv 2403.09338), hunto/LocalMamba `local_scan.py`; the same in DiMSUM (`local_scan`) and, with
    windows of H/2 x W/2 and H/4 x W/4, the two leaf orders of QuadMamba (`local_scan.py`).
    """
    refuse_clip("local", grid)
    path = windows(grid, window, window if window_width is None else window_width, columns=columns)
    return path if edges == "pad" else path[path != PAD]


def windows(grid: Grid, height: int, width: int, *, columns: bool = False) -> Path:
    """The tokens of all height x width windows, with -1 for cells outside the grid."""
    tall, wide = -(-grid.height // height), -(-grid.width // width)
    padded = np.full((tall * height, wide * width), PAD)
    padded[: grid.height, : grid.width] = np.arange(grid.tokens).reshape(grid.height, grid.width)
    split = padded.reshape(tall, height, wide, width)
    return split.transpose((2, 0, 3, 1) if columns else (0, 2, 1, 3)).reshape(-1)


def local_mamba(grid: Grid, layer: int, *, table: list[list[str]] = UNSEARCHED) -> Route:
    """Several paths per layer from rows, columns, windows and their reverses, weighted per path and channel.

    Layer i uses entry i mod n of `table`, a list of names among h, h_flip, v, v_flip, wN and wN_flip. The default has
    four paths, as in LocalMamba without its search. The weights are MaIR's (merge channel-attention); LocalMamba
    gates each path by an attention over its own channels (BiAttn). Incomplete windows and shorter paths are padded with
    zeros.
    Source: LocalMamba (arXiv 2403.09338), hunto/LocalMamba `multi_mamba.py` (MultiScan) and `local_vim.py`.
    """
    refuse_clip("local-mamba", grid)
    if not table or not all(table):
        raise NotReady("the table of local-mamba has no paths", expected="lists of names such as h, v_flip or w2")
    paths = [direction(grid, name) for name in table[layer % len(table)]]
    longest = max(map(len, paths))
    filled = [np.pad(path, (0, longest - len(path)), constant_values=PAD) for path in paths]
    return Route(np.stack(filled), merge="channel-attention")


def direction(grid: Grid, name: str) -> Path:
    """One path of LocalMamba: h, v or wN (windows of N x N), with _flip the reverse."""
    kind, flip = name.removesuffix("_flip"), name.endswith("_flip")
    if kind == "h":
        path = np.arange(grid.tokens)
    elif kind == "v":
        path = np.arange(grid.tokens).reshape(grid.height, grid.width).T.reshape(-1)
    elif kind[:1] == "w" and kind[1:].isascii() and kind[1:].isdigit() and 1 <= int(kind[1:]) <= 1024:
        path = windows(grid, int(kind[1:]), int(kind[1:]))
    else:
        raise NotReady(
            "unknown path in the table of local-mamba", expected="h, v or wN, each with or without _flip", got=name
        )
    return path[::-1] if flip else path


def atrous(grid: Grid, *, step: Annotated[int, Interval(ge=1, le=64)] = 2) -> Route:
    """Every `step`-th row and column: step^2 paths split the tokens, by rows if the first row is even, else by columns.

    Together they scan L tokens. If `step` doesn't divide the grid, zero tokens replace the cells outside it (upstream
    leaves cells unwritten at step 3).
    Source: EfficientVMamba (arXiv 2403.09977), TerryPei/EfficientVMamba `efficient_scan.py` (ES2D).
    """
    refuse_clip("atrous", grid)
    if step > min(grid.height, grid.width):
        raise NotReady(
            "the step of atrous is so large that paths have no tokens",
            expected=f"at most the shorter side of {grid}",
            got=step,
        )
    tall, wide = -(-grid.height // step), -(-grid.width // step)
    padded = np.full((tall * step, wide * step), PAD)
    padded[: grid.height, : grid.width] = np.arange(grid.tokens).reshape(grid.height, grid.width)
    parts = [(padded[a::step, b::step], a % 2) for b in range(step) for a in range(step)]
    return Route(
        np.stack([(part.T if by_columns else part).reshape(-1) for part, by_columns in parts]), merge="scatter"
    )


def nested_s(
    grid: Grid,
    layer: int,
    *,
    stripe: Annotated[int, Interval(ge=1, le=1024)] = 4,
    shift: Literal["alternate", "none"] = "alternate",
) -> Route:
    """Four paths: serpentines in vertical stripes, alternately down and up; their half turn; both for the transpose.

    Every second layer shifts the stripes by half their width (`alternate`). Outputs are weighted per path and channel.
    Source: MaIR (arXiv 2412.20066), XLearning-SCU/2025-CVPR-MaIR `shift_scanf_util.py`.
    """
    refuse_clip("nested-s", grid)
    first = stripe // 2 if shift == "alternate" and layer % 2 else 0
    tokens = np.arange(grid.tokens).reshape(grid.height, grid.width)
    one, other = (view.reshape(-1)[stripes(*view.shape, stripe, first)] for view in (tokens, tokens.T))
    last = grid.tokens - 1
    return Route(np.stack([one, last - one, other, last - other]), merge="channel-attention")


def stripes(height: int, width: int, stripe: int, first: int) -> Path:
    """Serpentines in vertical stripes, alternately down and up. The first stripe has width `first` unless it is 0."""
    edges = [0, *range(first or stripe, width, stripe), width]
    tokens = np.arange(height * width).reshape(height, width)
    path = []
    for number, (left, right) in enumerate(itertools.pairwise(edges)):
        part = tokens[:, left:right][:: -1 if number % 2 else 1].copy()
        part[1::2] = part[1::2, ::-1].copy()
        path.append(part.reshape(-1))
    return np.concatenate(path)
