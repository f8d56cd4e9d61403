"""Register the built-in scan orders with the hook that plugins use. This package needs only NumPy."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.scans.orders import controls, cross, curves, heads, inserted, local, spirals, straight, zigzag

SCANS = (
    straight.raster, straight.column, straight.bidirectional, straight.row_repeat, straight.sweep,
    straight.four_corners, straight.mamba_nd, straight.video_mamba, zigzag.zigzag, zigzag.continuous,
    zigzag.zigzag_video, cross.cross_scan, cross.wrapped_diagonal, cross.omnidirectional, cross.multi_path,
    curves.diagonal, curves.jpeg, curves.morton, curves.peano, curves.hilbert, curves.hilbert_inverse, local.local,
    local.local_mamba, local.atrous, local.nested_s, spirals.spiral, spirals.spiral_inverse, spirals.border_spiral,
    spirals.diffma, inserted.dim, inserted.adventurer, inserted.mamba_r, heads.hybrid, heads.multi_head,
    controls.random, controls.locality_matched,
)  # fmt: skip


@hookimpl
def register_scans(register: Callable[..., None]) -> None:
    """Register every function above. Underscores in its name become hyphens."""
    for scan in SCANS:
        register(scan.__name__.replace("_", "-"), scan)
