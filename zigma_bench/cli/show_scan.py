"""`scans show`: the paths of a scan drawn, and what they are like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zigma_bench.cli.show import print_wide
from zigma_bench.errors import UsageError
from zigma_bench.grid import Grid
from zigma_bench.plugins import catalogue
from zigma_bench.scans import analysis, draw
from zigma_bench.scans.layers import routes
from zigma_bench.scans.route import Route
from zigma_bench.suite import parse_value


@dataclass(frozen=True)
class Shown:
    """The layers of a scan on a grid."""

    grid: Grid
    layers: dict[int, Route]


def find(name: str, grid: str, *, layer: int | None, depth: int, seed: int, settings: Sequence[str]) -> Shown:
    """The checked routes of a scan; one layer, or all of them."""
    if depth < 1:
        raise UsageError("a network has at least one layer", where="--depth", got=depth)
    if layer is not None and not 0 <= layer < depth:
        raise UsageError("there is no such layer", where="--layer", expected=f"0 to {depth - 1}", got=layer)
    spec = catalogue().get("scan", name)
    given = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise UsageError("this is no setting", where=f"--set {setting}", expected="OPTION=VALUE, such as paths=8")
        given[option] = parse_value(value, f"--set {setting}")
    size = Grid.parse(grid)
    options = spec.resolve(given, where="--set")
    found = routes(spec, grid=size, depth=depth, seed=seed, options=options)
    return Shown(size, {i: route for i, route in enumerate(found) if layer is None or i == layer})


def show_json(name: str, grid: str, *, layer: int | None, depth: int, seed: int, settings: Sequence[str]) -> None:
    """Print the layers as one JSON document."""
    shown = find(name, grid, layer=layer, depth=depth, seed=seed, settings=settings)
    print(json.dumps(analysis.show_json(list(shown.layers.values()), shown.grid)))


def show(name: str, grid: str, *, layer: int | None, depth: int, seed: int, settings: Sequence[str]) -> None:
    """Draw every distinct layer and print the table of all."""
    shown = find(name, grid, layer=layer, depth=depth, seed=seed, settings=settings)
    console = Console(soft_wrap=True)
    console.print(draw.LEGEND, markup=False, highlight=False)
    drawn: dict[str, list[int]] = {}
    for number, route in shown.layers.items():
        drawn.setdefault(route.digest, []).append(number)
    for numbers in drawn.values():
        console.print(f"\nlayer {', '.join(map(str, numbers))}", markup=False, highlight=False)
        for line in draw.rich_route(shown.layers[numbers[0]], shown.grid):
            console.print(line)
    table = Table(title=Text(f"\n{name} on {shown.grid}"), title_justify="left")
    for heading in ("layer", "paths", "scanned / L", "4-neighbours", "8-neighbours", "mean step", "largest", "digest"):
        table.add_column(heading, justify="right")
    for number, route in shown.layers.items():
        facts = analysis.statistics(route, shown.grid)
        table.add_row(
            str(number), str(route.K), f"{facts.scanned_ratio:g}", _share(facts.neighbour4_share),
            _share(facts.neighbour8_share), _figure(facts.mean_step), _figure(facts.largest_step), route.digest[:12],
        )  # fmt: skip
    print_wide(table)
    if len(shown.layers) > 1:
        covered = analysis.coverage(list(shown.layers.values()), shown.grid)
        print("neighbour pairs adjacent in one of the first k layers: " + ", ".join(_share(value) for value in covered))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
