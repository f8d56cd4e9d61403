"""`scans compare`: statistics of scans side by side, as means over layers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from zigma_bench.cli.scans_common import (
    FOOTNOTE,
    SHARES,
    Files,
    ShownScan,
    empty_table,
    number_ranges,
    percentage,
    route_panel,
    save_page,
    share_columns,
)
from zigma_bench.reports.terminal import print_wide
from zigma_bench.scans import analysis

if TYPE_CHECKING:
    from zigma_bench.scans.pictures import PictureBlock

DEPTHS = (1, 2, 4, 8)  # numbers of layers for which coverage is shown


@dataclass(frozen=True)
class ScanRow:
    """The statistics of a scan: means over layers, except the largest step and the counts.

    `coverage`: the share of neighbour pairs that are adjacent in one of the first 1, 2, ... layers.
    """

    scan: str
    options: dict[str, Any]
    paths: list[int]
    distinct_layers: int
    learned: bool
    pads: int
    scanned_ratio: float
    neighbour4_share: float | None
    neighbour8_share: float | None
    mean_step: float | None
    largest_step: int | None
    sequence_distance: dict[str, float]
    coverage: list[float | None]


def compare(scans: Sequence[ShownScan], *, as_json: bool, wanted: Files) -> None:
    """Print a table of scans, or one JSON document, and write the requested pictures."""
    rows = [_row(shown) for shown in scans]
    grid = scans[0].grid
    if as_json:
        print(json.dumps({"grid": analysis.grid_sides(grid), "scans": [asdict(row) for row in rows]}))
    else:
        _print_rows(rows, f"{len(scans[0].layers)} layers on {grid}")
    if wanted:
        from zigma_bench.scans import pictures

        blocks = [_first_block(shown) for shown in scans]
        save_page(pictures.comparison_figure(blocks, _curves(scans), title=f"Scans on {grid}"), wanted)


def _row(shown: ShownScan) -> ScanRow:
    layers = list(shown.layers.values())
    known = [found for route in layers if (found := analysis.route_statistics(route, shown.grid)) is not None]
    return ScanRow(
        scan=shown.label,
        options=shown.options,
        paths=sorted({route.K for route in layers}),
        distinct_layers=len(shown.distinct),
        learned=not known,
        pads=max(route.pad_count for route in layers),
        scanned_ratio=math.fsum(route.scanned_ratio for route in layers) / len(layers),
        neighbour4_share=_mean(found.neighbour4_share for found in known),
        neighbour8_share=_mean(found.neighbour8_share for found in known),
        mean_step=_mean(found.mean_step for found in known),
        largest_step=max((found.largest_step for found in known if found.largest_step is not None), default=None),
        sequence_distance=_mean_curve([found.sequence_distance for found in known]),
        coverage=list(analysis.neighbour_coverage(layers, shown.grid)),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _mean_curve(curves: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over layers for each distance, over the layers that have it."""
    distances = sorted({d for curve in curves for d in curve}, key=int)
    return {d: math.fsum(known := [c[d] for c in curves if d in c]) / len(known) for d in distances}


def _print_rows(rows: Sequence[ScanRow], title: str) -> None:
    depths = [k for k in DEPTHS if k <= len(rows[0].coverage)]
    columns = empty_table(title, ("scan", "paths", *SHARES, *(f"k={k}" for k in depths), "pads", "distinct layers"))
    for row in rows:
        name = Text(row.scan + (" (learned)" if row.learned else ""))
        covered = [percentage(row.coverage[k - 1]) for k in depths]
        shares = [f"{row.scanned_ratio:.3g}", *share_columns(asdict(row))]
        columns.add_row(name, number_ranges(row.paths), *shares, *covered, str(row.pads), str(row.distinct_layers))
    print_wide(columns)
    print("means over layers, except the largest step; pads: the most in a layer; " + FOOTNOTE)
    print("k=1, 2, ...: neighbour pairs adjacent in one of the first k layers")


def _curves(scans: Sequence[ShownScan]) -> dict[str, dict[str, float]]:
    """The mean distance in the sequence at every power of two within the grid, for scans that are not learned."""
    grid = scans[0].grid
    distances = [2**n for n in range((grid.frames + grid.height + grid.width).bit_length())]
    return {
        shown.label: _mean_curve(
            [analysis.sequence_distance(r, grid, distances) for r in shown.layers.values() if not r.learned]
        )
        for shown in scans
    }


def _first_block(shown: ShownScan) -> PictureBlock:
    """The first path of the first layer, captioned with the number of paths and layers."""
    from zigma_bench.scans.pictures import PictureBlock

    route = next(iter(shown.layers.values()))
    paths = f"path 0 of {route.K}, " if route.K > 1 else ""
    layers = f"layer 0 of {len(shown.distinct)} distinct" if len(shown.distinct) > 1 else "all layers"
    return PictureBlock((route_panel(shown.grid, route, 0),), paths + layers, heading=shown.label)
