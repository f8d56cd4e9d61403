"""The scan order `rings`, as a minimal plugin for zigma-bench."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from zigma_bench import hookimpl
from zigma_bench.errors import NotReady
from zigma_bench.scans.grid import Grid


def rings(grid: Grid, *, outward: bool = False) -> npt.NDArray[np.int64]:
    """Ring by ring from the border inwards, each clockwise from its top left corner; `outward` reads it backwards.

    On any rectangle every step goes to a neighbour.
    """
    if grid.video:
        raise NotReady("rings is an order for single images", expected="a grid of 1 frame", got=str(grid))
    r, c = np.divmod(np.arange(grid.tokens), grid.width)
    down, left = grid.height - 1 - r, grid.width - 1 - c
    ring = np.minimum.reduce([r, c, down, left])
    side = np.select([r == ring, left == ring, down == ring], [0, 1, 2], 3)  # top, right, bottom, left
    path = np.lexsort((np.choose(side, [c, r, -c, -r]), side, ring))
    return path[::-1] if outward else path


@hookimpl
def register_scans(register: Callable[..., None]) -> None:
    """One scan, `rings`."""
    register("rings", rings)
