"""Commands on a suite: run, its single stages, plan and report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zigma_bench.errors import CellFailed, UsageError

if TYPE_CHECKING:
    from zigma_bench.plan import Stage

SuiteFile = Annotated[Path, typer.Argument(help="The suite, a YAML file.", metavar="SUITE")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY.PATH=VALUE, laid over the suite.")]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="Only cells whose label contains or matches this; several add up.")
]
Results = Annotated[Path, typer.Option("--results", help="The folder of all results.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Toy scale on embedded data: exercises every stage.")]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

DEFAULT_RESULTS = Path("results")


def stage_command(name: str, stages: Sequence[Stage], doc: str) -> Callable[..., None]:
    """The command that runs some stages of every cell of a suite."""

    def command(
        suite: SuiteFile,
        settings: Settings = None,
        only: Only = None,
        results: Results = DEFAULT_RESULTS,
        smoke: Smoke = False,
        device: DeviceName = "auto",
        as_json: AsJson = False,
    ) -> None:
        _run(suite, settings, only, results, smoke, device, as_json, stages)

    command.__name__, command.__doc__ = name, doc
    return command


run = stage_command(
    "run",
    ("train", "sample", "quality", "efficiency"),
    "Train, sample, measure and tabulate every cell of a suite; goes on where an earlier run stopped.",
)
train = stage_command("train", ("train",), "Train the cells of a suite, and no more.")
sample = stage_command("sample", ("sample",), "Draw the images of trained cells, and no more.")
quality = stage_command("quality", ("quality",), "Measure the quality of drawn images, and no more.")


def plan(
    suite: SuiteFile,
    settings: Settings = None,
    only: Only = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Print the resolved cells with tokens, parameters, FLOPs and estimated time; code 3 where something is missing."""
    from zigma_bench.cli.show import show_plan
    from zigma_bench.run.prepare import plan_json, prepare
    from zigma_bench.system.device import find_device

    target = find_device(device)
    made = prepare(suite, settings=settings or (), only=only or (), smoke=smoke)
    if as_json:
        print(json.dumps(plan_json(made, results, target), indent=1, allow_nan=False))
    else:
        show_plan(made, results, target)
    made.check_ready(target.type)


def report(
    paths: Annotated[list[Path] | None, typer.Argument(help="Results folders; all of results/ by default.")] = None,
    output: Annotated[str, typer.Option("--format", help="terminal, markdown, csv, json, or a plugin's.")] = "terminal",
    plot: Annotated[Path | None, typer.Option(help="PNG or SVG: an efficiency suite's curves over length.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tabulate records: mean and spread over seeds, the two anchors, and what failed."""
    from zigma_bench.reports.formats import print_report, report_format
    from zigma_bench.reports.table import find_tables

    chosen = report_format("json" if as_json else output)
    tables = find_tables(paths or [DEFAULT_RESULTS])
    if plot is not None:
        from zigma_bench.reports.curves import draw_curves

        draw_curves(tables, plot)
    print_report(chosen, tables)
    if broken := [fault for table in tables for fault in table.broken]:
        more = f"; {len(broken) - 1} more record(s) can't be read either" if len(broken) > 1 else ""
        raise CellFailed(f"{broken[0]}{more}")


def _run(
    suite: Path,
    settings: list[str] | None,
    only: list[str] | None,
    results: Path,
    smoke: bool,
    device: str,
    as_json: bool,
    stages: Sequence[Stage],
) -> None:
    from zigma_bench.records.store import suite_folder
    from zigma_bench.reports.formats import print_report, report_format
    from zigma_bench.reports.table import read_tables
    from zigma_bench.run.executors.local import rounds_of, run_plan
    from zigma_bench.run.prepare import check_stages, prepare
    from zigma_bench.run.watch import watcher
    from zigma_bench.system.device import find_device

    target = find_device(device)
    made = prepare(suite, settings=settings or (), only=only or (), smoke=smoke, fetch=True, device_type=target.type)
    made.check_ready(target.type)
    check_stages(made, stages, results, target)
    print(f"device: {target.name} ({target.card})", file=sys.stderr)
    with watcher(len(made.cells) * rounds_of(made)) as watching:
        outcomes = run_plan(made, results, target, watching, stages=stages)
    folder = suite_folder(results, made.suite.name, smoke=smoke)
    failed = {outcome.folder.name: outcome.reason or "" for outcome in outcomes if outcome.status == "failed"}
    try:
        tables = read_tables(folder, failed)
    except UsageError as error:  # its table was there when the run began
        raise CellFailed("the results folder was removed during the run", where=str(folder), do=error.do) from None
    print_report(report_format("json" if as_json else "terminal"), tables)
    if not made.suite.timed_alone:
        print(f"sample grids: {folder}/*/sample-*/grid.png", file=sys.stderr)
    print(f"records:      {folder}/*/*/record.json", file=sys.stderr)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)
