"""Orders with inserted tokens: DiM's line ends, Adventurer's mean and class token, Mamba-R's registers.

An inserted token is a row of a table that each layer learns for its own mixer. Upstream, inserted tokens are part of
the stream through all layers, and Adventurer's first one is the mean of the image. Here the stream contains only the
tokens of the grid.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.straight import Path, refuse_clip
from zigma_bench.scans.route import PAD, Route


def dim(
    grid: Grid, layer: int, depth: int, *, pads: Annotated[int, Interval(ge=0, le=64)] = 3, mirrored: bool = True
) -> Route:
    """Rows, reversed rows, columns and reversed columns by layer, with `pads` learned tokens at the end of each line.

    The pads are `pads` extra columns and rows of the grid. All pads of one such column or row are one learned token.
    `mirrored`: the second half of the network uses the orders backwards, so layers i and depth - 1 - i have one order.
    Source: DiM (arXiv 2405.14224), tyshiwo1/DiM-DiffusionMamba `adapter_attn4mamba.py`.
    """
    refuse_clip("dim", grid)
    columns, back = divmod(min(layer, depth - 1 - layer) % 4 if mirrored else layer % 4, 2)
    height, width = grid.height + pads, grid.width + pads
    r, c = np.mgrid[:height, :width]
    tokens = np.where((r < grid.height) & (c < grid.width), r * grid.width + c, PAD)
    rows = np.where(c >= grid.width, c - grid.width, r - grid.height)  # distance from the end of the line
    path, row = (np.reshape(table.T if columns else table, -1)[:: -1 if back else 1] for table in (tokens, rows))
    return Route(path, pads=row[path == PAD][None] if pads else None)


def adventurer(grid: Grid, layer: int, *, compatibility: Literal["none", "adventurer"] = "none") -> Route:
    """Raster between two inserted tokens (upstream the mean and the class token), reversed in every second layer.

    `compatibility: adventurer` reverses only layers 2 and 3, as the released code does.
    Source: Adventurer (arXiv 2410.07599), wangf3014/Adventurer `models_mamba.py`.
    """
    turned = layer // 2 == 1 if compatibility == "adventurer" else layer % 2 == 1
    raster = np.arange(grid.tokens)
    return Route(np.concatenate(([PAD], raster[::-1] if turned else raster, [PAD])), pads=[[0, 1]])  # type: ignore[arg-type]


def mamba_r(grid: Grid, *, registers: Annotated[int, Interval(ge=1, le=1024)] = 12) -> Route:
    """Raster and its reverse with `registers` inserted at even distances, summed, with separate parameters.

    Source: Mamba-R (arXiv 2405.14858), wangf3014/Mamba-Reg `utils.py` (get_cls_idx); the backbone is Vim.
    """
    places = np.arange(1, registers + 1) * (grid.tokens // (registers + 1))
    path = np.insert(np.arange(grid.tokens), places, PAD)
    rows: Path = np.arange(registers)
    return Route(np.stack([path, path[::-1]]), pads=np.stack([rows, rows[::-1]]))
