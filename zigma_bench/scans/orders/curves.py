"""Orders along a plane curve in eight orientations: diagonals, Morton, Peano, Hilbert.

A curve is a function (H, W) -> path on an H x W grid; `turned` applies it in one of the orientations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.orders.gilbert import gilbert
from zigma_bench.scans.orders.straight import Mode, Path, lines, refuse_clip, serpentine
from zigma_bench.scans.route import Route
from zigma_bench.scans.turns import paths_in_turn

Curve = Callable[[int, int], Path]
Eight = Literal[1, 2, 4, 8]


def row_path(height: int, width: int) -> Path:
    """Row by row."""
    return np.arange(height * width)


def snake_path(height: int, width: int) -> Path:
    """Row by row, with every second row reversed."""
    return serpentine(row_path(height, width).reshape(height, width))


def diagonal_path(height: int, width: int) -> Path:
    """Diagonals r + c = 0, 1, ..., each from its top right to its bottom left."""
    r, c = np.divmod(np.arange(height * width), width)
    return np.lexsort((r, r + c))


def jpeg_path(height: int, width: int) -> Path:
    """Diagonals r + c = 0, 1, ...: odd ones down to the left, even ones up to the right."""
    r, c = np.divmod(np.arange(height * width), width)
    return np.lexsort((np.where((r + c) % 2, r, -r), r + c))


def eamamba_zigzag_path(height: int, width: int) -> Path:
    """EAMamba's zigzag: `jpeg_path` if the height is even, with all diagonals reversed if it is odd."""
    r, c = np.divmod(np.arange(height * width), width)
    return np.lexsort((np.where((r + c + height) % 2, r, -r), r + c))


def morton_path(height: int, width: int) -> Path:
    """Cells sorted by the number whose even bits are those of the column and odd bits those of the row."""
    r, c = np.divmod(np.arange(height * width), width)
    return np.argsort(_spread(c) | _spread(r) << 1, kind="stable")


def eamamba_zorder_path(height: int, width: int) -> Path:
    """EAMamba's Z-order. Each of its masks is applied one doubling too late, so bits overlap instead of interleaving.

    Cells with equal numbers are in raster order.
    """
    r, c = np.divmod(np.arange(height * width), width)
    return np.argsort(_spread(c, LATE_MASKS) | _spread(r, LATE_MASKS) << 1, kind="stable")


MASKS = ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F),
         (2, 0x3333333333333333), (1, 0x5555555555555555))  # fmt: skip
LATE_MASKS = ((8, 0x0000FFFF), (4, 0x00FF00FF), (2, 0x0F0F0F0F), (1, 0x33333333))


def _spread(value: Path, masks: tuple[tuple[int, int], ...] = MASKS) -> Path:
    """Move bit i of each number to bit 2 i, for numbers below 2^31."""
    for shift, mask in masks:
        value = (value | value << shift) & mask
    return value


def peano_path(height: int, width: int) -> Path:
    """Peano's curve on the smallest 3^k square that contains the grid; cells outside the grid are skipped."""
    side = 1
    while side < max(height, width):
        side *= 3
    r, c = np.divmod(np.arange(height * width), width)
    time = np.zeros_like(r)
    odd_r, odd_c = np.zeros_like(r), np.zeros_like(c)  # parity of the digits so far: an odd sum mirrors the next digits
    while side > 1:
        side //= 3
        row, column = r // side % 3, c // side % 3
        # Digits of t in base 3 alternate between the column (slow) and the row (fast), mirrored by the other's parity.
        slow = np.where(odd_r % 2, 2 - column, column)
        odd_c = odd_c + slow
        fast = np.where(odd_c % 2, 2 - row, row)
        odd_r = odd_r + fast
        time = time * 9 + slow * 3 + fast
    return np.argsort(time, kind="stable")


def hilbert_path(height: int, width: int) -> Path:
    """The generalised Hilbert curve on any rectangle."""
    return gilbert(height, width)


def cut_hilbert_path(height: int, width: int) -> Path:
    """Hilbert's curve on the smallest 2^k square that contains the grid; cells outside the grid are skipped."""
    side = 1 << (max(height, width) - 1).bit_length()
    r, c = np.divmod(gilbert(side, side), side)
    inside = (r < height) & (c < width)
    return r[inside] * width + c[inside]


def turned(curve: Curve, grid: Grid, number: int) -> Path:
    """The curve in orientation `number` of ZigMa's table: from one of the corners, with rows or columns first."""
    view = lines(grid, number)
    return view.reshape(-1)[curve(*view.shape)]


def _curve_route(scan: str, curve: Curve, grid: Grid, layer: int, paths: int, mode: str) -> Path | Route:
    refuse_clip(scan, grid)
    if mode == "parallel":
        return Route(np.stack([turned(curve, grid, number) for number in range(paths)]))
    return turned(curve, grid, layer % paths)


def count_orientations(grid: Grid, options: Mapping[str, Any]) -> int | None:
    """The number of orientations that the layers follow in turn; None if every layer scans all."""
    return options["paths"] if options["mode"] == "layerwise" else None


@paths_in_turn(count_orientations)
def diagonal(grid: Grid, layer: int, *, paths: Eight = 1, mode: Mode = "layerwise") -> Path | Route:
    """Along the diagonals, always in the same direction; in `paths` orientations, one per layer or all in each.

    Source: EAMamba, daidaijr/EAMamba `models/module/scan.py`.
    """
    return _curve_route("diagonal", diagonal_path, grid, layer, paths, mode)


@paths_in_turn(count_orientations)
def jpeg(grid: Grid, layer: int, *, paths: Eight = 1, mode: Mode = "layerwise") -> Path | Route:
    """JPEG's zigzag: along the diagonals in alternating directions; in `paths` orientations.

    Source: ITU-T T.81 figure 5; "zigzag" in MambaAD and EAMamba, jpeg_8 in DiMSUM (`dimsum/scanning_orders.py`).
    """
    return _curve_route("jpeg", jpeg_path, grid, layer, paths, mode)


@paths_in_turn(count_orientations)
def morton(
    grid: Grid,
    layer: int,
    *,
    paths: Eight = 1,
    mode: Mode = "layerwise",
    compatibility: Literal["none", "eamamba"] = "none",
) -> Path | Route:
    """Morton's Z-order: recursively by quadrants; on rectangles, cells outside the grid are skipped.

    `compatibility: eamamba` is the Z-order of EAMamba's code, which differs from row 2 on.
    Source: Morton 1966; lewandofskee/MambaAD `model/mambaad.py` (zorder); daidaijr/EAMamba `models/module/scan.py`.
    """
    curve = morton_path if compatibility == "none" else eamamba_zorder_path
    return _curve_route("morton", curve, grid, layer, paths, mode)


@paths_in_turn(count_orientations)
def peano(grid: Grid, layer: int, *, paths: Eight = 1, mode: Mode = "layerwise") -> Path | Route:
    """Peano's curve, without jumps on a 3^k square; other grids skip the cells of the next such square outside them.

    Source: Peano 1890; CompVis/zigma plots it, but no model uses it.
    """
    return _curve_route("peano", peano_path, grid, layer, paths, mode)


@paths_in_turn(count_orientations)
def hilbert(
    grid: Grid,
    layer: int,
    *,
    paths: Literal[1, 8] = 1,
    mode: Mode = "layerwise",
    compatibility: Literal["none", "zigma", "eamamba"] = "none",
) -> Path | Route:
    """The generalised Hilbert curve. All steps go to a neighbour, except one diagonal step on some grids of odd side.

    `paths: 8` uses the eight symmetries of the square.

    `compatibility: zigma` is ZigMa's `hilbertN`, the inverse of each curve (see `hilbert-inverse`). `eamamba` cuts the
    curve of the next 2^k square to the grid, which causes jumps.
    Source: J. Cerveny's generalised Hilbert curve; CompVis/zigma `utils/utils_zigzag.py` (hilbert_path), in its order
    of the symmetries; daidaijr/EAMamba `models/module/scan.py`.
    """
    refuse_clip("hilbert", grid)
    curve = cut_hilbert_path if compatibility == "eamamba" else hilbert_path

    def path(number: int) -> Path:
        found = symmetric(curve, grid, number)
        return np.argsort(found) if compatibility == "zigma" else found

    if mode == "parallel":
        return Route(np.stack([path(number) for number in range(paths)]))
    return path(layer % paths)


@paths_in_turn(lambda grid, options: options["paths"])
def hilbert_inverse(grid: Grid, layer: int, *, paths: Literal[1, 8] = 1) -> Path | Route:
    """The inverse of the Hilbert curve: its map of visit times used as an order, which is what ZigMa's code runs.

    Source: CompVis/zigma `utils/utils_zigzag.py`, whose array of visit times is the index of a gather.
    """
    return hilbert(grid, layer, paths=paths, compatibility="zigma")


def symmetric(curve: Curve, grid: Grid, number: int) -> Path:
    """The curve in symmetry `number` of ZigMa's Hilbert list: its time map rotated left number // 2 times, then
    transposed if `number` is odd. The code transforms the grid the other way instead."""
    view = np.arange(grid.tokens).reshape(grid.height, grid.width)
    view = np.rot90(view.T if number % 2 else view, -(number // 2))
    return view.reshape(-1)[curve(*view.shape)]
