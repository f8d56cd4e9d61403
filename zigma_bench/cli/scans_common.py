"""What the commands on scans share: a scan found with its options, its figures as columns, and the files written."""

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
from zigma_bench.scans.layers import routes
from zigma_bench.scans.route import Route
from zigma_bench.suite import parse_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zigma_bench.scans.pictures import Panel

SHARES = ("scanned / L", "4-neighbours", "8-neighbours", "mean step", "largest", "d=1", "d=4")
FOOTNOTE = (
    "d=1, d=4: mean steps between tokens that are 1 and 4 apart on the grid, where the state goes from one to the other"
)
LEARNED = "learned:\nthe order is\neach sample's own"

Files = Mapping[str, Path]  # what is to be written, by kind: png, svg, gif


@dataclass(frozen=True)
class Shown:
    """A scan with the options given and resolved, and its layers on a grid. `label`: as it was asked for."""

    label: str
    name: str
    given: dict[str, Any]
    options: dict[str, Any]
    grid: Grid
    layers: dict[int, Route]

    @property
    def distinct(self) -> list[tuple[list[int], Route]]:
        """Every route once, with the numbers of its layers."""
        found: dict[Route, list[int]] = {}
        for number, route in self.layers.items():
            found.setdefault(route, []).append(number)
        return [(numbers, route) for route, numbers in found.items()]


# Finding


def find(
    name: str,
    grid: str,
    *,
    layer: int | None = None,
    depth: int,
    seed: int,
    settings: Sequence[str] = (),
    where: str = "--set",
) -> Shown:
    """The checked routes of a scan; one layer, or all of them."""
    check_depth(depth)
    if layer is not None and not 0 <= layer < depth:
        raise UsageError("there is no such layer", where="--layer", expected=f"0 to {depth - 1}", got=layer)
    spec = catalogue().get("scan", name)
    given = dict(setting_of(setting, where) for setting in settings)
    size = Grid.parse(grid)
    options = spec.resolve(given, where=where)
    found = routes(spec, grid=size, depth=depth, seed=seed, options=options)
    layers = {i: route for i, route in enumerate(found) if layer is None or i == layer}
    return Shown(":".join([name, ",".join(settings)] if settings else [name]), name, given, options, size, layers)


def find_written(text: str, grid: str, *, depth: int, seed: int) -> Shown:
    """A scan written with its options, such as zigzag:paths=2,other=3; commas inside brackets belong to a value."""
    name, colon, rest = text.partition(":")
    settings = split_settings(rest) if colon else []
    return find(name, grid, depth=depth, seed=seed, settings=settings, where=text)


def split_settings(text: str) -> list[str]:
    """The settings of OPTION=VALUE,...; a comma inside brackets is part of a value."""
    return re.split(r",(?![^\[{]*[\]}])", text)


def check_depth(depth: int) -> None:
    """A network has a layer."""
    if depth < 1:
        raise UsageError("a network has at least one layer", where="--depth", got=depth)


def setting_of(setting: str, where: str) -> tuple[str, Any]:
    """An option's name and value, from paths=8."""
    option, equals, value = setting.partition("=")
    if not equals:
        raise UsageError("this is no setting", where=f"{where} {setting}", expected="OPTION=VALUE, such as paths=8")
    return option, parse_value(value, f"{where} {setting}")


# Tables


def table(title: str, headings: Sequence[str]) -> Table:
    """An empty table of figures."""
    made = Table(title=Text(title), title_justify="left")
    for heading in headings:
        made.add_column(heading, justify="left" if heading == "scan" else "right")
    return made


def figures(facts: Mapping[str, Any]) -> list[str]:
    """The columns of SHARES but for the first."""
    apart = facts["sequence_distance"]
    return [
        share(facts["neighbour4_share"]), share(facts["neighbour8_share"]), _figure(facts["mean_step"]),
        _figure(facts["largest_step"]), _figure(apart.get("1")), _figure(apart.get("4")),
    ]  # fmt: skip


def share(value: float | None) -> str:
    """A percentage, or a dash for none."""
    return "-" if value is None else f"{100 * value:.0f}%"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def ranges(numbers: Sequence[int]) -> str:
    """0-2, 5 for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# Pictures


def files(**given: Path | None) -> dict[str, Path]:
    """The pictures asked for, by kind; each must be named as what it is."""
    for kind, path in given.items():
        if path is not None and path.suffix.lower() != f".{kind}":
            raise UsageError(
                "the file has another ending than what is written into it",
                where=f"--{kind} {path}", expected=f"a name that ends in .{kind}", got=path.name,
            )  # fmt: skip
    return {kind: path for kind, path in given.items() if path is not None}


def panel(grid: Grid, route: Route, path: int) -> Panel:
    """A path to draw, or the words that its order is learned."""
    from zigma_bench.scans.pictures import Panel

    return Panel(grid, route, path, LEARNED if route.learned else "")


def save(page: Figure, wanted: Files) -> None:
    """Write a page to the PNG and SVG files asked for."""
    from zigma_bench.scans import pictures

    writers: dict[str, Callable[[Figure, Path], None]] = {"png": pictures.save_png, "svg": pictures.save_svg}
    for kind, write in writers.items():
        if kind in wanted:
            write(page, wanted[kind])
            say(wanted[kind])


def say(path: Path) -> None:
    """Tell of a file on stderr, after every line that stdout still holds: both may go to one place."""
    sys.stdout.flush()
    print(f"wrote {path}", file=sys.stderr)
