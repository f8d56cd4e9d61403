"""ZigMa's order: lines that turn at each end, so that every step goes to a neighbour."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from zigma_bench.grid import Grid
from zigma_bench.scans.straight import Path, lines, refuse_clip


def zigzag(grid: Grid, layer: int, *, paths: Annotated[int, Interval(ge=1, le=8)] = 8) -> Path:
    """Layer i follows serpentine i mod paths of ZigMa's eight: rows and columns from each of the four corners.

    Source: ZigMa (arXiv 2403.13802), CompVis/zigma `utils/utils_zigzag.py`; rectangles by the same formulas.
    """
    refuse_clip("zigzag", grid)
    turned = lines(grid, layer % paths).copy()
    turned[1::2] = turned[1::2, ::-1].copy()  # every second line backwards: its start touches the end of the last
    return turned.reshape(-1)
