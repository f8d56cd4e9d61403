"""`reproduce`: run a cell again from its record, and compare the figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from zigma_bench.cli.suites import AsJson, DeviceName
from zigma_bench.escaping import visible

if TYPE_CHECKING:
    from zigma_bench.run.reproduce import MeasurementPair, Reproduction

TOLERANCE_HELP = (
    "The largest relative difference. Default: 0 on the same CPU with the same threads and torch, else 0.02; 0.1 for "
    "speed and memory."
)


def reproduce(
    record: Annotated[Path, typer.Argument(help="A record.json, or the folder of a stage.", metavar="RECORD")],
    tolerance: Annotated[float | None, typer.Option("--tolerance", min=0.0, metavar="REL", help=TOLERANCE_HELP)] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The results folder of the new run.")] = Path(
        "reproduced"
    ),
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Run a cell again from its record, and compare the figures.

    Exit code 1 if a figure differs; 3 if something is missing or not as then.
    """
    from zigma_bench.run.reproduce import read_reproducible
    from zigma_bench.run.reproduce import reproduce as run_again
    from zigma_bench.run.watch import watcher
    from zigma_bench.system.device import find_device

    target, source = find_device(device), read_reproducible(record)
    print(f"device: {target.name} ({target.model_name})\n{visible(f'cell: {source.cell.label}')}", file=sys.stderr)
    with watcher(1) as watching:
        found = run_again(source, out, target, watching, tolerance)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _print_comparison(found)
    if not found.agrees:
        raise typer.Exit(1)


def _print_comparison(found: Reproduction) -> None:
    from zigma_bench.reports.terminal import print_wide

    title = Text(visible(f"{found.label}: {found.stage}"))
    table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("measurement", "record", "now", "difference", "verdict"):
        table.add_column(heading, justify="left" if heading in ("measurement", "verdict") else "right")
    for pair in found.pairs:
        table.add_row(*(Text(visible(text)) for text in _row_of(pair)))
    print_wide(table)
    print()
    for line in _lines_of(found):
        print(visible(line))


def _row_of(pair: MeasurementPair) -> tuple[str, ...]:
    unit = "" if pair.unit == "1" else f" {pair.unit}"
    old, new = ("-" if value is None else f"{value:.8g}" for value in (pair.old, pair.new))
    difference = "" if pair.difference is None else "0" if pair.difference == 0 else f"{pair.difference:+.2g}"
    return f"{pair.name}{unit}", old, new, difference, pair.verdict


def _lines_of(found: Reproduction) -> Iterator[str]:
    yield from (f"{pair.name}: {pair.reason}" for pair in found.pairs if pair.reason is not None)
    yield f"record: {found.old}"
    yield f"now:    {found.new}"
    yield from (f"machine: {line}" for line in found.machines)
    for name, same in found.files.items():
        yield f"{name}: {'equal to the bit' if same else 'other content'}"
    count = sum(pair.verdict == "differs" for pair in found.pairs)
    single = len(found.pairs) == 1
    total = "1 measurement" if single else f"{len(found.pairs)} measurements"
    rule = f"tolerance {found.tolerance:g}, {found.tolerance_from}"
    if count:
        yield f"{count} of {total} {'differs' if count == 1 else 'differ'} ({rule})"
    else:
        yield f"{total} {'agrees' if single else 'agree'} ({rule})"
