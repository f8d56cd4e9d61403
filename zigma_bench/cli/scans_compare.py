"""`scans compare`: scans side by side, each as the means over its layers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from zigma_bench.cli.scans_common import FOOTNOTE, SHARES, Files, Shown, figures, panel, ranges, save, share, table
from zigma_bench.reports.terminal import print_wide
from zigma_bench.scans import analysis

if TYPE_CHECKING:
    from zigma_bench.scans.pictures import Block

DEPTHS = (1, 2, 4, 8)  # after so many layers coverage is told


@dataclass(frozen=True)
class Row:
    """A scan over its layers: means, but for the largest step and the counts. `coverage`: after 1, 2, ... layers."""

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


def compare(scans: Sequence[Shown], *, as_json: bool, wanted: Files) -> None:
    """Tabulate scans side by side, or print one JSON document; write the pictures asked for."""
    rows = [_row(shown) for shown in scans]
    grid = scans[0].grid
    if as_json:
        print(json.dumps({"grid": analysis.sides(grid), "scans": [asdict(row) for row in rows]}))
    else:
        _print_rows(rows, f"{len(scans[0].layers)} layers on {grid}")
    if wanted:
        from zigma_bench.scans import pictures

        blocks = [_first_block(shown) for shown in scans]
        save(pictures.comparison(blocks, _curves(scans), title=f"Scans on {grid}"), wanted)


def _row(shown: Shown) -> Row:
    layers = list(shown.layers.values())
    known = [found for route in layers if (found := analysis.statistics(route, shown.grid)) is not None]
    return Row(
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
        coverage=list(analysis.coverage(layers, shown.grid)),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _mean_curve(curves: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over layers, of each distance over those that have it."""
    distances = sorted({d for curve in curves for d in curve}, key=int)
    return {d: math.fsum(known := [c[d] for c in curves if d in c]) / len(known) for d in distances}


def _print_rows(rows: Sequence[Row], title: str) -> None:
    depths = [k for k in DEPTHS if k <= len(rows[0].coverage)]
    columns = table(title, ("scan", "paths", *SHARES, *(f"k={k}" for k in depths), "pads", "distinct layers"))
    for row in rows:
        name = Text(row.scan + (" (learned)" if row.learned else ""))
        covered = [share(row.coverage[k - 1]) for k in depths]
        shares = [f"{row.scanned_ratio:.3g}", *figures(asdict(row))]
        columns.add_row(name, ranges(row.paths), *shares, *covered, str(row.pads), str(row.distinct_layers))
    print_wide(columns)
    print("means over layers, but for the largest step; pads: of a layer; " + FOOTNOTE)
    print("k=1, 2, ...: neighbour pairs adjacent in one of the first k layers")


def _curves(scans: Sequence[Shown]) -> dict[str, dict[str, float]]:
    """Mean distance in the sequence at every power of two that the grid holds, of scans that are not learned."""
    grid = scans[0].grid
    distances = [2**n for n in range((grid.frames + grid.height + grid.width).bit_length())]
    return {
        shown.label: _mean_curve(
            [analysis.sequence_distance(r, grid, distances) for r in shown.layers.values() if not r.learned]
        )
        for shown in scans
    }


def _first_block(shown: Shown) -> Block:
    """The first path of the first layer, with a word on how many there are."""
    from zigma_bench.scans.pictures import Block

    route = next(iter(shown.layers.values()))
    paths = f"path 0 of {route.K}, " if route.K > 1 else ""
    layers = f"layer 0 of {len(shown.distinct)} distinct" if len(shown.distinct) > 1 else "all layers"
    return Block((panel(shown.grid, route, 0),), paths + layers, heading=shown.label)
