"""Shared code of the scan commands: find a scan with its options, tabulate its statistics, write pictures."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from zigma_bench.errors import UsageError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import Route
from zigma_bench.suite import parse_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zigma_bench.scans.pictures import Panel

SHARES = ("scanned / L", "4-neighbours", "8-neighbours", "mean step", "largest", "d=1", "d=4")
FOOTNOTE = "d=1, d=4: mean number of steps between tokens of one segment that are 1 and 4 apart on the grid"
LEARNED = "learned:\neach sample has\nits own order"

Files = Mapping[str, Path]  # files to write, by kind: png, svg, gif


@dataclass(frozen=True)
class ShownScan:
    """A scan with its routes on a grid. `label` and `written` are as the user wrote them; `options` are resolved."""

    label: str
    name: str
    written: dict[str, Any]
    options: dict[str, Any]
    grid: Grid
    layers: dict[int, Route]

    @property
    def distinct(self) -> list[tuple[list[int], Route]]:
        """The distinct routes, each with the numbers of its layers."""
        found: dict[Route, list[int]] = {}
        for number, route in self.layers.items():
            found.setdefault(route, []).append(number)
        return [(numbers, route) for route, numbers in found.items()]


# Scans


def find_routes(
    name: str,
    grid: str,
    *,
    layer: int | None = None,
    depth: int,
    seed: int,
    settings: Sequence[str] = (),
    where: str = "--set",
) -> ShownScan:
    """A scan with its checked routes, of one layer or of all."""
    check_depth(depth)
    if layer is not None and not 0 <= layer < depth:
        raise UsageError("there is no such layer", where="--layer", expected=f"0 to {depth - 1}", got=layer)
    spec = catalogue().get("scan", name)
    written = dict(setting_of(setting, where) for setting in settings)
    size = Grid.parse(grid)
    options = spec.resolve(written, where=where)
    found = layer_routes(spec, grid=size, depth=depth, seed=seed, options=options)
    layers = {i: route for i, route in enumerate(found) if layer is None or i == layer}
    return ShownScan(":".join([name, ",".join(settings)] if settings else [name]), name, written, options, size, layers)


def find_written(text: str, grid: str, *, depth: int, seed: int) -> ShownScan:
    """A scan written with its options, such as zigzag:paths=2,other=3; a comma inside brackets is part of a value."""
    name, colon, rest = text.partition(":")
    settings = split_settings(rest) if colon else []
    return find_routes(name, grid, depth=depth, seed=seed, settings=settings, where=text)


def split_settings(text: str) -> list[str]:
    """The settings in OPTION=VALUE,...; a comma inside brackets is part of a value."""
    return re.split(r",(?![^\[{]*[\]}])", text)


def check_depth(depth: int) -> None:
    """Raise UsageError for a depth below 1."""
    if depth < 1:
        raise UsageError("a network has at least one layer", where="--depth", got=depth)


def setting_of(setting: str, where: str) -> tuple[str, Any]:
    """The name and value of an option written as paths=8."""
    option, equals, value = setting.partition("=")
    if not equals:
        raise UsageError(
            "not a KEY=VALUE setting", where=f"{where} {setting}", expected="OPTION=VALUE, such as paths=8"
        )
    return option, parse_value(value, f"{where} {setting}")


# Tables


def empty_table(title: str, headings: Sequence[str]) -> Table:
    """An empty table with these headings."""
    made = Table(title=Text(title), title_justify="left")
    for heading in headings:
        made.add_column(heading, justify="left" if heading == "scan" else "right")
    return made


def share_columns(facts: Mapping[str, Any]) -> list[str]:
    """The columns of SHARES except the first."""
    apart = facts["sequence_distance"]
    return [
        percentage(facts["neighbour4_share"]), percentage(facts["neighbour8_share"]), _figure(facts["mean_step"]),
        _figure(facts["largest_step"]), _figure(apart.get("1")), _figure(apart.get("4")),
    ]  # fmt: skip


def percentage(value: float | None) -> str:
    """A percentage, or a dash for None."""
    return "-" if value is None else f"{100 * value:.0f}%"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def number_ranges(numbers: Sequence[int]) -> str:
    """A short form of sorted numbers: `0-2, 5` for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# Pictures


def picture_files(**paths: Path | None) -> dict[str, Path]:
    """The requested pictures, by kind; UsageError for a file name with another suffix than its kind."""
    for kind, path in paths.items():
        if path is not None and path.suffix.lower() != f".{kind}":
            raise UsageError(
                f"the file name doesn't end in .{kind}",
                where=f"--{kind} {path}", expected=f"a name that ends in .{kind}", got=path.name,
            )  # fmt: skip
    return {kind: path for kind, path in paths.items() if path is not None}


def route_panel(grid: Grid, route: Route, path: int) -> Panel:
    """The panel of a path, or a panel that says that the order is learned."""
    from zigma_bench.scans.pictures import Panel

    return Panel(grid, route, path, LEARNED if route.learned else "")


def save_page(page: Figure, wanted: Files) -> None:
    """Write a page to the requested PNG and SVG files."""
    from zigma_bench.scans import pictures

    writers: dict[str, Callable[[Figure, Path], None]] = {"png": pictures.save_png, "svg": pictures.save_svg}
    for kind, write in writers.items():
        if kind in wanted:
            write(page, wanted[kind])
            print_written(wanted[kind])


def print_written(path: Path) -> None:
    """Name a written file on stderr, after flushing stdout, because both streams may go to the same place."""
    sys.stdout.flush()
    print(f"wrote {path}", file=sys.stderr)
