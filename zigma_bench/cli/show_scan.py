"""`scans show`, `compare` and `gallery`: the paths of scans drawn, and what they are like."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zigma_bench.cli.show import print_wide
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.grid import Grid
from zigma_bench.plugins import catalogue
from zigma_bench.scans import analysis, draw
from zigma_bench.scans.layers import routes
from zigma_bench.scans.route import BrokenScan, Route
from zigma_bench.suite import parse_value

if TYPE_CHECKING:
    from zigma_bench.registry import Spec
    from zigma_bench.scans.pictures import Block

SHARES = ("scanned / L", "4-neighbours", "8-neighbours", "mean step", "largest", "d=1", "d=4")
FOOTNOTE = (
    "d=1, d=4: mean steps between tokens that are 1 and 4 apart on the grid, where the state goes from one to the other"
)
DEPTHS = (1, 2, 4, 8)  # after so many layers coverage is told
FEW = 2  # panels of `show`, which are drawn larger
GALLERY_PANELS, GALLERY_SIZE = 4, 1.15  # of a scan; inches
GALLERY_GRIDS = tuple(map(Grid.parse, ("16x16", "8x8", "9x9", "2x8x8")))  # for a scan that refuses the one asked for
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


def files(**given: Path | None) -> dict[str, Path]:
    """The pictures asked for, by kind; each must be named as what it is."""
    for kind, path in given.items():
        if path is not None and path.suffix.lower() != f".{kind}":
            raise UsageError(
                "the file has another ending than what is written into it",
                where=f"--{kind} {path}", expected=f"a name that ends in .{kind}", got=path.name,
            )  # fmt: skip
    return {kind: path for kind, path in given.items() if path is not None}


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
    if depth < 1:
        raise UsageError("a network has at least one layer", where="--depth", got=depth)
    if layer is not None and not 0 <= layer < depth:
        raise UsageError("there is no such layer", where="--layer", expected=f"0 to {depth - 1}", got=layer)
    spec = catalogue().get("scan", name)
    given = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise UsageError("this is no setting", where=f"{where} {setting}", expected="OPTION=VALUE, such as paths=8")
        given[option] = parse_value(value, f"{where} {setting}")
    size = Grid.parse(grid)
    options = spec.resolve(given, where=where)
    found = routes(spec, grid=size, depth=depth, seed=seed, options=options)
    layers = {i: route for i, route in enumerate(found) if layer is None or i == layer}
    return Shown(":".join([name, ",".join(settings)] if settings else [name]), name, given, options, size, layers)


def find_written(text: str, grid: str, *, depth: int, seed: int) -> Shown:
    """A scan written with its options, such as zigzag:paths=2,other=3; commas inside brackets belong to a value."""
    name, colon, rest = text.partition(":")
    settings = re.split(r",(?![^\[{]*[\]}])", rest) if colon else []
    return find(name, grid, depth=depth, seed=seed, settings=settings, where=text)


# show


def show(shown: Shown, *, as_json: bool, wanted: Files) -> None:
    """Draw every distinct layer and print the table of all, or one JSON document; write the pictures asked for."""
    if as_json:
        print(json.dumps(analysis.show_json(list(shown.layers.values()), shown.grid)))
    else:
        _draw(shown)
        _tabulate(shown)
    if wanted:
        from zigma_bench.scans import pictures

        blocks, title = _blocks(shown), f"{shown.label} on {shown.grid}"
        size = 3.8 if len(blocks) <= FEW else 2.0
        if {"png", "svg"} & set(wanted):
            _save(pictures.page(blocks, size=size, title=title), wanted)
        if "gif" in wanted:
            pictures.save_gif(blocks, wanted["gif"], size=size, title=title)
            _say(wanted["gif"])


def _draw(shown: Shown) -> None:
    console = Console(soft_wrap=True)
    console.print(draw.LEGEND, markup=False, highlight=False)
    for numbers, route in shown.distinct:
        console.print(f"\nlayer {', '.join(map(str, numbers))}", markup=False, highlight=False)
        for line in draw.rich_route(route, shown.grid, width=console.width if sys.stdout.isatty() else None):
            console.print(line)


def _tabulate(shown: Shown) -> None:
    table = _table(f"\n{shown.label} on {shown.grid}", ("layer", "paths", *SHARES, "pads", "merge", "digest"))
    for number, route in shown.layers.items():
        facts = analysis.statistics(route, shown.grid)
        figures = [f"{route.scanned_ratio:g}", *(_figures(facts.to_json()) if facts else ["-"] * (len(SHARES) - 1))]
        merge = "learned" if route.learned else route.merge if route.K > 1 else ""
        table.add_row(str(number), str(route.K), *figures, str(route.pad_count), merge, route.digest[:12])
    print_wide(table)
    print(FOOTNOTE)
    if len(shown.layers) > 1:
        covered = analysis.coverage(list(shown.layers.values()), shown.grid)
        print("neighbour pairs adjacent in one of the first k layers: " + ", ".join(_share(value) for value in covered))


def _blocks(shown: Shown) -> list[Block]:
    """A panel a distinct path, each with its caption."""
    from zigma_bench.scans.pictures import Block, Panel

    options = "".join(f", {name} {value}" for name, value in shown.given.items())
    blocks = []
    for numbers, route in shown.distinct:
        where = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {_ranges(numbers)}"
        for k in range(route.K):
            path = f", path {k}" if route.K > 1 else ""
            panel = Panel(shown.grid, route, k, LEARNED if route.learned else "")
            blocks.append(Block((panel,), f"{shown.name}{options}, {where}{path}"))
    return blocks


def _ranges(numbers: Sequence[int]) -> str:
    """0-2, 5 for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# compare


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
        _save(pictures.comparison(blocks, _curves(scans), title=f"Scans on {grid}"), wanted)


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


def _print_rows(rows: Sequence[Row], title: str) -> None:
    depths = [f"k={k}" for k in DEPTHS if k <= len(rows[0].coverage)]
    table = _table(title, ("scan", "paths", *SHARES, *depths, "pads", "distinct layers"))
    for row in rows:
        covered = [_share(row.coverage[k - 1]) for k in DEPTHS if k <= len(row.coverage)]
        table.add_row(
            Text(row.scan + (" (learned)" if row.learned else "")), _ranges(row.paths), f"{row.scanned_ratio:.3g}",
            *_figures(asdict(row)), *covered, str(row.pads), str(row.distinct_layers),
        )  # fmt: skip
    print_wide(table)
    print("means over layers, but for the largest step; pads: of a layer; " + FOOTNOTE)
    print("k=1, 2, ...: neighbour pairs adjacent in one of the first k layers")


def _first_block(shown: Shown) -> Block:
    """The first path of the first layer, with a word on how many there are."""
    from zigma_bench.scans.pictures import Block, Panel

    route = next(iter(shown.layers.values()))
    paths = f"path 0 of {route.K}, " if route.K > 1 else ""
    layers = f"layer 0 of {len(shown.distinct)} distinct" if len(shown.distinct) > 1 else "all layers"
    panel = Panel(shown.grid, route, 0, LEARNED if route.learned else "")
    return Block((panel,), paths + layers, heading=shown.label)


# gallery


def gallery(grid: str, *, depth: int, seed: int, wanted: Files) -> None:
    """Draw every scan of the catalogue on one page, by name."""
    if not wanted:
        raise UsageError("nothing to write", expected="--png FILE or --svg FILE")
    if depth < 1:
        raise UsageError("a network has at least one layer", where="--depth", got=depth)
    from zigma_bench.scans import pictures

    asked = Grid.parse(grid)
    blocks = [_gallery_block(spec, asked, depth, seed) for spec in catalogue().scans]
    title = f"{len(blocks)} scans on {asked} tokens, options at their defaults"
    _save(pictures.page(blocks, size=GALLERY_SIZE, width=13, title=title), wanted)


def _gallery_block(spec: Spec, asked: Grid, depth: int, seed: int) -> Block:
    """A scan's first distinct paths, on the nearest grid that it takes; or why there is none."""
    from zigma_bench.scans.pictures import Block, Panel

    try:
        options = spec.resolve({}, where="gallery")
    except UsageError as error:
        return Block((Panel(asked, note="not drawn"),), error.what, heading=spec.name)
    others = sorted((g for g in GALLERY_GRIDS if g != asked), key=lambda g: _unlikeness(g, asked))
    refusal = ""
    for grid in (asked, *others):
        try:
            found = routes(spec, grid=grid, depth=depth, seed=seed, options=options)
        except BrokenScan:
            raise
        except NotReady as error:
            refusal = refusal or error.what
            continue
        return _drawn_block(spec.name, found, grid, "" if grid == asked else f"on {grid}")
    return Block((Panel(asked, note="not drawn"),), refusal, heading=spec.name)


def _unlikeness(grid: Grid, asked: Grid) -> tuple[bool, float]:
    return grid.video != asked.video, abs(math.log(grid.tokens / asked.tokens))


def _drawn_block(name: str, found: Sequence[Route], grid: Grid, note: str) -> Block:
    from zigma_bench.scans.pictures import Block, Panel

    if found[0].learned:
        return Block((Panel(grid, found[0], 0, LEARNED),), note, heading=name)
    paths: dict[bytes, Panel] = {}
    for route in dict.fromkeys(found):
        for k, path in enumerate(route.paths):
            resets = b"" if route.segments is None else route.segments[k].tobytes()
            paths.setdefault(path.tobytes() + b"|" + resets, Panel(grid, route, k))
    count = f"{GALLERY_PANELS} of {len(paths)} paths" if len(paths) > GALLERY_PANELS else ""
    panels = tuple(paths.values())[:GALLERY_PANELS]
    return Block(panels, ", ".join(filter(None, (note, count))), heading=name)


# What they share


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "scan" else "right")
    return table


def _figures(facts: Mapping[str, Any]) -> list[str]:
    """The columns of SHARES but for the first."""
    apart = facts["sequence_distance"]
    return [
        _share(facts["neighbour4_share"]), _share(facts["neighbour8_share"]), _figure(facts["mean_step"]),
        _figure(facts["largest_step"]), _figure(apart.get("1")), _figure(apart.get("4")),
    ]  # fmt: skip


def _save(figure: Any, wanted: Files) -> None:
    """Write a page to the PNG and SVG files asked for."""
    from zigma_bench.scans import pictures

    writers: dict[str, Callable[..., None]] = {"png": pictures.save_png, "svg": pictures.save_svg}
    for kind, write in writers.items():
        if kind in wanted:
            write(figure, wanted[kind])
            _say(wanted[kind])


def _say(path: Path) -> None:
    print(f"wrote {path}", file=sys.stderr)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
