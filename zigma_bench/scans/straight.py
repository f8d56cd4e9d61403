"""Orders that read straight lines: raster, its reverse, and the eight sweeps from the four corners."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import NotReady
from zigma_bench.grid import Grid
from zigma_bench.scans.route import Route

Path = npt.NDArray[np.int64]


def raster(grid: Grid) -> Path:
    """Row by row, in every layer; a clip frame by frame.

    Source: the single-direction baseline of all scan studies ("sweep" in ZigMa, arXiv 2403.13802).
    """
    return np.arange(grid.tokens)


def bidirectional(grid: Grid, layer: int, *, mode: Literal["parallel", "layerwise"] = "parallel") -> Path | Route:
    """Raster and its reverse: both in every layer and summed (`parallel`), or by turns (`layerwise`).

    `parallel` scans 2 L tokens with parameters of its own for each direction; `layerwise` scans L.
    Source: Vision Mamba (arXiv 2401.09417), hustvl/Vim `mamba_simple.py`; CompVis/zigma `scan_type="v2"`.
    """
    forward = np.arange(grid.tokens)
    if mode == "parallel":
        return Route(np.stack([forward, forward[::-1]]), merge="sum", share="separate")
    return forward if layer % 2 == 0 else forward[::-1]


def sweep(grid: Grid, layer: int, *, paths: Literal[1, 2, 4, 8] = 8) -> Path:
    """Layer i reads rows or columns from one of the four corners: number i mod paths of ZigMa's table, unturned.

    Source: VinAIResearch/DiMSUM `dimsum/scanning_orders.py` (sweep_8), in the order of ZigMa's table.
    """
    refuse_clip("sweep", grid)
    return lines(grid, layer % paths).reshape(-1)


def lines(grid: Grid, number: int) -> Path:
    """Path `number` (0 to 7) of ZigMa's table as straight lines [lines, tokens of a line].

    Even numbers read rows, odd ones columns; corners top left, top right, bottom left, bottom right, two numbers each.
    Source: CompVis/zigma `utils/utils_zigzag.py`.
    """
    assert 0 <= number < 8, number
    cells = np.arange(grid.height * grid.width).reshape(grid.height, grid.width)
    corner, columns = divmod(number, 2)
    if corner in (2, 3):
        cells = cells[::-1]
    if corner in (1, 3):
        cells = cells[:, ::-1]
    return cells.T if columns else cells


def refuse_clip(scan: str, grid: Grid) -> None:
    """Raise NotReady for a grid of several frames."""
    if grid.video:
        raise NotReady(
            f"{scan} is an order of one picture and says nothing about time",
            expected="a grid of 1 frame",
            got=str(grid),
            do="take raster or bidirectional, which go over all frames",
        )
