"""`scans show`: draw the layers of a scan on the terminal and in files, and print their statistics."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from zigma_bench.cli.scans_common import (
    FOOTNOTE,
    SHARES,
    Files,
    ShownScan,
    empty_table,
    number_ranges,
    percentage,
    print_written,
    route_panel,
    save_page,
    share_columns,
)
from zigma_bench.reports.terminal import print_wide
from zigma_bench.scans import analysis, draw

if TYPE_CHECKING:
    from zigma_bench.scans.grid import Grid
    from zigma_bench.scans.pictures import PictureBlock
    from zigma_bench.scans.route import Route

FEW = 2  # up to this number, panels are drawn larger


def show(shown: ShownScan, *, as_json: bool, wanted: Files) -> None:
    """Draw the distinct layers and print a table of all, or one JSON document; write the requested pictures."""
    if as_json:
        print(json.dumps(analysis.show_json(list(shown.layers.values()), shown.grid)))
    else:
        _draw(shown)
        _tabulate(shown)
    if wanted:
        _write(shown, wanted)


def _draw(shown: ShownScan) -> None:
    console = Console(soft_wrap=True)
    console.print(draw.LEGEND, markup=False, highlight=False)
    for numbers, route in shown.distinct:
        console.print(f"\nlayer {', '.join(map(str, numbers))}", markup=False, highlight=False)
        for line in draw.rich_route(route, shown.grid, width=console.width if sys.stdout.isatty() else None):
            console.print(line)


def _tabulate(shown: ShownScan) -> None:
    columns = empty_table(f"\n{shown.label} on {shown.grid}", ("layer", "paths", *SHARES, "pads", "merge", "digest"))
    for number, route in shown.layers.items():
        columns.add_row(str(number), *_row(route, shown.grid))
    print_wide(columns)
    print(FOOTNOTE)
    if len(shown.layers) > 1:
        covered = analysis.neighbour_coverage(list(shown.layers.values()), shown.grid)
        print(
            "neighbour pairs adjacent in one of the first k layers: "
            + ", ".join(percentage(value) for value in covered)
        )


def _row(route: Route, grid: Grid) -> list[str]:
    """The columns of a layer except its number."""
    facts = analysis.route_statistics(route, grid)
    known = share_columns(facts.to_json()) if facts else ["-"] * (len(SHARES) - 1)
    merge = "learned" if route.learned else route.merge if route.K > 1 else ""
    return [str(route.K), f"{route.scanned_ratio:g}", *known, str(route.pad_count), merge, route.digest[:12]]


def _write(shown: ShownScan, wanted: Files) -> None:
    from zigma_bench.scans import pictures

    blocks, title = _blocks(shown), f"{shown.label} on {shown.grid}"
    size = 3.8 if len(blocks) <= FEW else 2.0
    if {"png", "svg"} & set(wanted):
        save_page(pictures.flow_page(blocks, size=size, title=title), wanted)
    if "gif" in wanted:
        pictures.save_gif(blocks, wanted["gif"], size=size, title=title)
        print_written(wanted["gif"])


def _blocks(shown: ShownScan) -> list[PictureBlock]:
    """One captioned panel per distinct path."""
    from zigma_bench.scans.pictures import PictureBlock

    options = "".join(f", {name} {value}" for name, value in shown.written.items())
    blocks = []
    for numbers, route in shown.distinct:
        where = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {number_ranges(numbers)}"
        for k in range(route.K):
            path = f", path {k}" if route.K > 1 else ""
            blocks.append(PictureBlock((route_panel(shown.grid, route, k),), f"{shown.name}{options}, {where}{path}"))
    return blocks
