"""Orders along straight lines: raster, its reverse, columns, the eight sweeps, and layer-wise alternations of these."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Interval

from zigma_bench.errors import NotReady
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.scans.turns import paths_in_turn

Path = npt.NDArray[np.int64]
Mode = Literal["layerwise", "parallel"]


def raster(grid: Grid) -> Path:
    """Row by row, in every layer; clips frame by frame.

    Source: the single-direction baseline of all scan studies ("sweep" in ZigMa, arXiv 2403.13802).
    """
    return np.arange(grid.tokens)


def column(grid: Grid) -> Path:
    """Column by column, in every layer; clips frame by frame."""
    return cells(grid).transpose(0, 2, 1).reshape(-1)


@paths_in_turn(lambda grid, options: 2 if options["mode"] == "layerwise" else None)
def bidirectional(
    grid: Grid, layer: int, *, mode: Literal["parallel", "layerwise"] = "parallel", continuous: bool = False
) -> Path | Route:
    """Raster and its reverse: both in every layer and summed (`parallel`), or alternately (`layerwise`).

    `parallel` scans 2 L tokens with separate parameters for each direction. `layerwise` scans L tokens and is the
    cheapest order in which every token sees every other. `continuous` makes a serpentine of the rows, so that no step
    jumps (images only).
    Source: Vision Mamba (arXiv 2401.09417), hustvl/Vim `mamba_simple.py`; CompVis/zigma `scan_type="v2"`. Serpentines
    by rows and their reverse: two of the four paths of PlainMamba (arXiv 2403.17695).
    """
    forward = np.arange(grid.tokens)
    if continuous:
        refuse_clip("bidirectional with continuous lines", grid)
        forward = serpentine(lines(grid, 0))
    if mode == "parallel":
        return Route(np.stack([forward, forward[::-1]]), merge="sum", share="separate")
    return forward if layer % 2 == 0 else forward[::-1]


def row_repeat(grid: Grid, *, paths: Annotated[int, Interval(ge=1, le=8)] = 4) -> Route:
    """Raster, `paths` times in every layer with separate parameters, summed: the compute of K paths with one order.

    Source: VMamba's one-way ablation (MzeroMiko/VMamba `csm_triton.py`, scans=1) at paths = 4.
    """
    return Route(np.tile(np.arange(grid.tokens), (paths, 1)))


@paths_in_turn(lambda grid, options: options["paths"])
def sweep(grid: Grid, layer: int, *, paths: Literal[1, 2, 4, 8] = 8) -> Path:
    """Layer i scans rows or columns from one of the four corners: number i mod `paths` of ZigMa's table, without turns.

    Source: VinAIResearch/DiMSUM `dimsum/scanning_orders.py` (sweep_8), in the order of ZigMa's table.
    """
    refuse_clip("sweep", grid)
    return lines(grid, layer % paths).reshape(-1)


@paths_in_turn(lambda grid, options: 4)
def four_corners(grid: Grid, layer: int, *, continuous: bool = False) -> Path:
    """Rows and columns by turns, from each corner once: the rows of the grid after i mod 4 quarter turns in layer i.

    Rows from the top left, columns from the top right, rows from the bottom right, columns from the bottom left: each
    axis in both directions. Every line starts at the same side, so the path jumps between lines; `continuous` makes a
    serpentine of them.
    Source: the four paths of VMamba's ablation by rotations (MzeroMiko/VMamba `csm_triton.py`, scans=3), one per layer
    instead of four.
    """
    refuse_clip("four-corners", grid)
    turned = np.rot90(lines(grid, 0), layer % 4)
    return serpentine(turned) if continuous else turned.reshape(-1)


@paths_in_turn(lambda grid, options: 6 if grid.video else 4)
def mamba_nd(grid: Grid, layer: int, *, continuous: bool = False) -> Path:
    """Rows, reversed rows, columns and reversed columns by layer; for clips six orders of the axes t, h and w.

    `continuous` makes serpentines of the lines (images only).
    Source: Mamba-ND (arXiv 2402.05892), jacklishufan/Mamba-ND; the same for images: DiG (hustvl/DiG `models_dig.py`)
    and the spatial branch of DiMSUM (VinAIResearch/DiMSUM `dimsum/models_dim.py`), which has the option `continuous`.
    """
    axes = ((0, 1, 2), (0, 2, 1), (2, 1, 0)) if grid.video else ((0, 1, 2), (0, 2, 1))
    number, back = divmod(layer % (2 * len(axes)), 2)
    if continuous:
        refuse_clip("mamba-nd with continuous lines", grid)
        path = serpentine(lines(grid, number))
    else:
        path = cells(grid).transpose(axes[number]).reshape(-1)
    return path[::-1] if back else path


def video_mamba(
    grid: Grid, *, order: Literal["spatial-first", "temporal-first", "spatiotemporal"] = "spatial-first"
) -> Route:
    """Clips forwards and backwards, summed: frame by frame, or through time at each position, or both (four paths).

    Source: VideoMamba (arXiv 2403.06977), OpenGVLab/VideoMamba `video_sm/models/videomamba.py`.
    """
    frames, places = np.arange(grid.tokens), cells(grid).transpose(1, 2, 0).reshape(-1)
    refuse_picture("video-mamba", grid)
    first = {"spatial-first": [frames], "temporal-first": [places], "spatiotemporal": [frames, places]}[order]
    return Route(np.stack([path for forward in first for path in (forward, forward[::-1])]))


def cells(grid: Grid) -> Path:
    """Flat indices [T, H, W]."""
    return np.arange(grid.tokens).reshape(grid.frames, grid.height, grid.width)


def lines(grid: Grid, number: int) -> Path:
    """Path `number` (0 to 7) of ZigMa's table as straight lines [lines, tokens of a line].

    Even numbers are rows, odd ones columns. The corners are top left, top right, bottom left and bottom right, with two
    numbers each.
    Source: CompVis/zigma `utils/utils_zigzag.py`.
    """
    assert 0 <= number < 8, number
    view: Path = cells(grid)[0]
    corner, columns = divmod(number, 2)
    if corner in (2, 3):
        view = view[::-1]
    if corner in (1, 3):
        view = view[:, ::-1]
    return view.T if columns else view


def serpentine(straight: Path) -> Path:
    """Lines [n, m] in sequence, with every second one reversed so that it starts next to the end of the previous."""
    turned = straight.copy()
    turned[1::2] = turned[1::2, ::-1].copy()
    return turned.reshape(-1)


def refuse_picture(scan: str, grid: Grid) -> None:
    """Raise NotReady for a grid of one frame."""
    if not grid.video:
        raise NotReady(
            f"{scan} is an order for clips",
            expected="a grid of several frames",
            got=str(grid),
            do="use bidirectional or zigzag for images",
        )


def refuse_clip(scan: str, grid: Grid) -> None:
    """Raise NotReady for a grid of several frames."""
    if grid.video:
        raise NotReady(
            f"{scan} is an order for single images",
            expected="a grid of 1 frame",
            got=str(grid),
            do="for clips use raster, bidirectional, mamba-nd, video-mamba or zigzag-video",
        )
