"""The built-in scan orders. NumPy only; they come in through the same hook as a plugin's."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.hookspecs import hookimpl
from zigma_bench.scans.straight import bidirectional, raster, sweep
from zigma_bench.scans.zigzag import zigzag


@hookimpl
def register_scans(register: Callable[..., None]) -> None:
    """Raster, sweep, bidirectional and zigzag."""
    for scan in (raster, sweep, bidirectional, zigzag):
        register(scan.__name__, scan)
