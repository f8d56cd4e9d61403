"""The scan order `spiral`: a plugin for zigma-bench, as small as one can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from zigma_bench import hookimpl
from zigma_bench.errors import NotReady
from zigma_bench.grid import Grid


def spiral(grid: Grid, *, inward: bool = False) -> npt.NDArray[np.int64]:
    """Clockwise from the centre (H//2, W//2) outwards, first step to the right; `inward` reads it backwards.

    Arms of 1, 1, 2, 2, 3, 3, ... cells; cells off the grid are skipped, so grids of an even side and rectangles jump.
    Source: DiffMa, wongzbb/DiffMa-Diffusion-Mamba `tools.py`, the curve that its code draws.
    """
    if grid.video:
        raise NotReady("spiral is an order of one picture", expected="a grid of 1 frame", got=str(grid))
    rows, columns = np.divmod(np.arange(grid.tokens), grid.width)
    path = np.argsort(arrival(columns - grid.width // 2, rows - grid.height // 2))
    return path[::-1] if inward else path


def arrival(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The step at which an endless spiral reaches the cell x columns right of and y rows below its start.

    Ring m holds the cells with max(|x|, |y|) = m; it ends at (m, -m) with step 4m^2 + 4m.
    """
    m = np.maximum(abs(x), abs(y))
    top, left, bottom = (y == -m), (x == -m), (y == m)
    sides = [4 * m**2 + 3 * m + x, 4 * m**2 + m - y, 4 * m**2 - m - x]
    return np.select([top, left, bottom], sides, 4 * m**2 - 3 * m + y)


@hookimpl
def register_scans(register: Callable[..., None]) -> None:
    """One scan, `spiral`."""
    register("spiral", spiral)
