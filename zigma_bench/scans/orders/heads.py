"""Several copies of one curve: MambaAD's hybrid scan (summed) and EAMamba's heads (one copy per channel group)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.curves import (
    cut_hilbert_path,
    diagonal_path,
    eamamba_zigzag_path,
    eamamba_zorder_path,
    hilbert_path,
    jpeg_path,
    morton_path,
    row_path,
    snake_path,
)
from zigma_bench.scans.orders.straight import Path, refuse_clip
from zigma_bench.scans.route import Route

HYBRID: dict[str, Callable[[int, int], Path]] = {
    "sweep": row_path, "scan": snake_path, "zorder": morton_path, "zigzag": jpeg_path, "hilbert": hilbert_path,
}  # fmt: skip
HEADS: dict[str, Callable[[int, int], Path]] = {
    "diagonal": diagonal_path, "zorder": morton_path, "zigzag": jpeg_path, "hilbert": cut_hilbert_path,
}  # fmt: skip

EAMAMBA: dict[str, Callable[[int, int], Path]] = {"zorder": eamamba_zorder_path, "zigzag": eamamba_zigzag_path}


def hybrid(
    grid: Grid,
    *,
    curve: Literal["sweep", "scan", "zorder", "zigzag", "hilbert"] = "hilbert",
    paths: Literal[2, 4, 8] = 8,
) -> Route:
    """A curve and its reverse (2), also those of the transpose (4), also all four after a quarter turn (8), summed.

    The names of the curves are upstream's (scan: serpentine, zigzag: JPEG's). Works on any rectangle; upstream needs
    powers of two.
    Source: MambaAD (arXiv 2404.06564), lewandofskee/MambaAD `model/mambaad.py` (HSCANS); its Hilbert curve goes right
    first, which is the transpose of ours.
    """
    refuse_clip("hybrid", grid)
    square = np.arange(grid.tokens).reshape(grid.height, grid.width)
    views = [square, square.T, np.rot90(square), np.rot90(square).T][: paths // 2]
    forward = [_along(curve, view) for view in views]
    return Route(np.stack([*forward, *(path[::-1] for path in forward)]))


def _along(curve: str, view: Path) -> Path:
    if curve == "hilbert":
        view = view.T
    return view.reshape(-1)[HYBRID[curve](*view.shape)]


def multi_head(
    grid: Grid,
    *,
    curve: Literal["diagonal", "zorder", "zigzag", "hilbert"] = "diagonal",
    paths: Literal[1, 2, 4, 8] = 4,
    merge: Literal["concat", "sum"] = "concat",
    compatibility: Literal["none", "eamamba"] = "none",
) -> Route:
    """A curve, its half turn, its mirror image and the half turn of that; with 8 paths also rows and columns.

    `concat` gives each path its own group of channels, so that a layer scans L tokens for any number of paths. The
    Hilbert curve is cut from the next 2^k square, as upstream. `compatibility: eamamba` uses upstream's zorder, which
    differs from Morton's, and upstream's zigzag, whose diagonals are reversed if H is odd.
    Source: EAMamba, daidaijr/EAMamba `models/module/scan.py` (ScanTransform).
    """
    refuse_clip("multi-head", grid)
    square = np.arange(grid.tokens).reshape(grid.height, grid.width)
    upstream = EAMAMBA if compatibility == "eamamba" else {}
    path = upstream.get(curve, HEADS[curve])(grid.height, grid.width)
    mirrored = square[:, ::-1].reshape(-1)[path]
    rows, columns = square.reshape(-1), square.T.reshape(-1)
    forward = [path, mirrored, rows, columns]
    bank = [path for one in forward for path in (one, grid.tokens - 1 - one)]
    return Route(np.stack(bank[:paths]), merge=merge if paths > 1 else "sum")
