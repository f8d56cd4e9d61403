"""The commands `run`, `train`, `plan`, `report`, `sheet` and `suites list`, and those of suites in other commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zigma_bench.errors import CellFailed, UsageError
from zigma_bench.escaping import visible

if TYPE_CHECKING:
    from zigma_bench.plan import Stage
    from zigma_bench.run.executors.executor import Executor
    from zigma_bench.suite import Suite
    from zigma_bench.system.device import Device

SuiteFile = Annotated[Path, typer.Argument(help="The suite (YAML file).", metavar="SUITE")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY.PATH=VALUE, overrides a key of the suite.")]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="Only cells whose label contains or matches this; can be repeated.")
]
Results = Annotated[Path, typer.Option("--results", help="The folder for all results.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Toy scale on embedded data: exercises every stage.")]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
DeviceNames = Annotated[
    str | None,
    typer.Option("--devices", metavar="all|0,1|cpu:N", help="Several devices side by side; instead of --device."),
]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where cells run: local, or a plugin's.")]
ExecutorSettings = Annotated[
    list[str] | None, typer.Option("--executor-set", metavar="KEY=VALUE", help="An option of the executor.")
]
Timeouts = Annotated[
    list[str] | None,
    typer.Option("--timeout", metavar="STAGE=SECONDS", help="Stop a stage that takes longer; its cell fails."),
]
RunName = Annotated[
    str | None,
    typer.Option("--name", metavar="RUN", help="The name of the run; by default main, smoke, or one made from --set."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

DEFAULT_RESULTS = Path("results")


def stage_command(title: str, stages: Sequence[Stage], doc: str) -> Callable[..., None]:
    """A command that runs `stages` of every cell of a suite; `doc` is its help."""

    def command(
        suite: SuiteFile,
        settings: Settings = None,
        only: Only = None,
        results: Results = DEFAULT_RESULTS,
        smoke: Smoke = False,
        device: DeviceName = "auto",
        as_json: AsJson = False,
        name: RunName = None,
        devices: DeviceNames = None,
        executor: ExecutorName = "local",
        executor_settings: ExecutorSettings = None,
        timeouts: Timeouts = None,
    ) -> None:
        target = ExecutionTarget(device, devices, executor, executor_settings or (), timeouts or ())
        _run(suite, settings, only, results, smoke, target, as_json, name, stages)

    command.__name__, command.__doc__ = title, doc
    return command


run = stage_command(
    "run",
    ("train", "sample", "quality", "efficiency"),
    "Train, sample, measure and tabulate a suite.\n\nThe same command resumes an interrupted run.",
)
train = stage_command("train", ("train",), "Train the cells of a suite, and nothing else.")
sample = stage_command("sample", ("sample",), "Sample images from the trained cells of a suite.")
quality = stage_command("quality", ("quality",), "Measure the quality of the samples of a suite.")


def plan(
    suite: SuiteFile,
    settings: Settings = None,
    only: Only = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    as_json: AsJson = False,
    name: RunName = None,
) -> None:
    """Print the cells of a suite, their cost and estimated time.

    Nothing is trained. Exit code 3 if something is missing.
    """
    from zigma_bench.cli.show import show_plan
    from zigma_bench.reports.detectable import describe_detectable, find_detectable
    from zigma_bench.run.prepare import plan_json, prepare
    from zigma_bench.system.device import find_device

    target = find_device(device)
    made = prepare(suite, settings=settings or (), only=only or (), smoke=smoke)
    detectable = find_detectable(made, results)
    if as_json:
        document = plan_json(made, results, target, name)
        document["detectable"] = None if detectable is None else asdict(detectable)
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show_plan(made, results, target, name)
        print("".join(f"{visible(line)}\n" for line in describe_detectable(detectable)), end="")
    made.check_ready(target.type)


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of results, of a suite or of a run. Default: all of results/."),
    ] = None,
    output: Annotated[str, typer.Option("--format", help="terminal, markdown, csv, json, or a plugin's.")] = "terminal",
    plot: Annotated[
        Path | None, typer.Option(help="Write curves of an efficiency suite over the length to this PNG or SVG.")
    ] = None,
    as_json: AsJson = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="RUN", help="The run to show; the latest of each suite by default.")
    ] = None,
    tests: Annotated[
        Path | None,
        typer.Option("--tests", metavar="SUITE", help="A suite whose declared tests replace those of its run."),
    ] = None,
) -> None:
    """Tabulate results: mean and spread over seeds.

    Shows the latest run of each suite, with the anchors, failed cells and the names of the other runs.
    """
    from zigma_bench.reports.formats import print_report, report_format
    from zigma_bench.reports.table import find_tables
    from zigma_bench.suite import load_suite

    chosen = report_format("json" if as_json else output)
    tests_of = None if tests is None else load_suite(tests)[0]
    tables = find_tables(paths or [DEFAULT_RESULTS], name, tests_of)
    if plot is not None:
        from zigma_bench.reports.curves import draw_curves

        draw_curves(tables, plot)
    print_report(chosen, tables)
    if broken := list(dict.fromkeys(fault for table in tables for fault in table.broken)):
        more = f"; {len(broken) - 1} more file(s) can't be read either" if len(broken) > 1 else ""
        raise CellFailed(f"{broken[0]}{more}")


def sheet(
    folder: Annotated[Path, typer.Argument(help="The folder of a suite or of a run in the results.", metavar="FOLDER")],
    out: Annotated[Path, typer.Option("--out", help="The PNG file to write.")],
    lines: Annotated[int, typer.Option("--lines", help="Lines of 8 images for each row of the table.")] = 2,
    seed: Annotated[int | None, typer.Option("--seed", help="The seed of the samples. Default: the first.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="RUN", help="The run to show; the latest by default.")
    ] = None,
) -> None:
    """Draw the samples of a run side by side, a block per row.

    All rows show samples of the same seed, from the same noise.
    """
    from zigma_bench.reports.sheet import write_sheet
    from zigma_bench.reports.table import find_run_folder

    write_sheet(find_run_folder(folder, name), out, lines=lines, seed=seed)
    print(f"sheet: {out}")


def list_suites(
    folder: Annotated[Path, typer.Argument(help="The folder of the suites.", metavar="[FOLDER]")] = Path("suites"),
    as_json: AsJson = False,
) -> None:
    """List the suites of a folder, with their questions.

    Exit code 2 if a suite can't be read.
    """
    from zigma_bench.suite import load_suite

    if not folder.is_dir():
        raise UsageError("not a folder", where=str(folder), do="name a folder of suites (*.yaml)")
    found, faults = [], []
    for path in sorted(folder.glob("*.yaml")):
        try:
            suite, source = load_suite(path)
        except UsageError as error:
            faults.append(str(error))
            continue
        found.append(_describe_suite(suite, source.question, path))
    if as_json:
        print(json.dumps({"suites": found, "problems": faults}, indent=1))
    else:
        for one in found:
            print(visible(f"{one['name']} ({one['file']}): {one['question']}"))
            print(visible(f"  {one['rows']} rows, {one['seeds']} seeds on {', '.join(one['data']) or 'no data'}"))
    if faults:
        raise UsageError(f"{len(faults)} suites can't be read", where=str(folder), problems=faults)


def _describe_suite(suite: Suite, question: str, path: Path) -> dict[str, Any]:
    data = suite.data if isinstance(suite.data, tuple) else (suite.data,) if suite.data else ()
    rows = sum(len(entry.scans or "_") for entry in suite.compare)
    return {"name": suite.name, "file": str(path), "question": question, "rows": rows, "seeds": len(suite.seeds),
            "data": [entry.name for entry in data]}  # fmt: skip


@dataclass(frozen=True)
class ExecutionTarget:
    """Where a command runs its cells, as its options say it."""

    device: str
    devices: str | None
    executor: str
    settings: Sequence[str]
    timeouts: Sequence[str]

    def find_devices(self) -> tuple[Device, ...]:
        """The devices. UsageError if both options are set."""
        from zigma_bench.system.device import find_device, find_devices

        if self.devices is None:
            return (find_device(self.device),)
        if self.device != "auto":
            raise UsageError(
                "--device and --devices are both set", got=f"{self.device} and {self.devices}", do="omit one"
            )
        return find_devices(self.devices)

    def open_executor(self) -> Executor:
        """The executor with its options; UsageError for unknown or wrong ones."""
        from zigma_bench.run.executors.open_executor import open_executor

        return open_executor(self.executor, self.settings)

    def stage_timeouts(self) -> dict[Stage, float]:
        """The timeouts in seconds, by stage."""
        from zigma_bench.run.executors.open_executor import parse_timeouts

        return parse_timeouts(self.timeouts)


def _run(
    suite: Path,
    settings: list[str] | None,
    only: list[str] | None,
    results: Path,
    smoke: bool,
    target: ExecutionTarget,
    as_json: bool,
    name: str | None,
    stages: Sequence[Stage],
) -> None:
    from zigma_bench.records.packed import PACKED
    from zigma_bench.reports.formats import print_report, report_format
    from zigma_bench.reports.run_files import write_run_files
    from zigma_bench.reports.table import read_tables
    from zigma_bench.run.prepare import check_stages, prepare
    from zigma_bench.run.run_plan import run_plan
    from zigma_bench.run.runs import find_run
    from zigma_bench.run.watch import watcher

    devices, executor, timeouts = target.find_devices(), target.open_executor(), target.stage_timeouts()
    kind = devices[0].type
    made = prepare(suite, settings=settings or (), only=only or (), smoke=smoke, fetch=True, device_type=kind)
    made.check_ready(kind)
    check_stages(made, stages, results, devices[0], name)
    chosen = find_run(made, results, name)
    print(f"{_describe_devices(devices)}\n{visible(str(chosen))}", file=sys.stderr)
    with watcher(len(made.cells) + len(made.waiting)) as watching:
        outcomes = run_plan(
            made, results, devices, watching, executor, stages=stages, name=name, timeouts=timeouts,
            executor_name=target.executor,
        )  # fmt: skip
    folder = outcomes[0].folder.parent
    failed = {outcome.folder.name: outcome.reason or "" for outcome in outcomes if outcome.status == "failed"}
    try:
        tables = read_tables(folder, failed)
    except UsageError as error:  # the folder existed when the run began
        raise CellFailed("the results folder was removed during the run", where=str(folder), do=error.do) from None
    print_report(report_format("json" if as_json else "terminal"), tables)
    packed = f" and {folder / PACKED}" if (folder / PACKED).exists() else ""
    print(f"records: {folder}/*/*/record.json{packed}", file=sys.stderr)
    print(f"written: {', '.join(map(str, write_run_files(folder, tables)))}", file=sys.stderr)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _describe_devices(devices: Sequence[Device]) -> str:
    if len(devices) == 1:
        return f"device: {devices[0].name} ({devices[0].model_name})"
    names = [device.name for device in devices]
    text = ", ".join(names) if len(set(names)) > 1 else f"{len(names)} workers on {names[0]}"
    return f"devices: {text} ({devices[0].model_name})"
