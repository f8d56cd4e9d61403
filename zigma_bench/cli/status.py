"""`status`: the state of runs, read from their files, also while other processes work on them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson
from zigma_bench.errors import UsageError
from zigma_bench.escaping import visible

if TYPE_CHECKING:
    from zigma_bench.run.status import CellState, RunState, StageState, StatusReader

REFRESH_SECONDS = 2.0
STYLES = {"done": "green", "failed": "bold red", "running": "cyan", "waiting": "dim"}


def status(
    folder: Annotated[
        Path, typer.Argument(help="The folder of results, of a suite or of a run.", metavar="[FOLDER]")
    ] = DEFAULT_RESULTS,
    name: Annotated[
        str | None, typer.Option("--name", metavar="RUN", help="The run to show; the latest of each suite by default.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh on a terminal until nothing runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is done, failed, running and waiting in a run.

    Reads files only, so it works from another terminal.
    """
    from zigma_bench.reports.table import find_run_folders
    from zigma_bench.run.status import StatusReader

    if watch and (as_json or not sys.stdout.isatty()):
        raise UsageError("this refreshes a terminal", where="--watch", do="leave it out, and call the command again")
    reader, folders = StatusReader(), find_run_folders(folder, name)
    states = [reader.read(run) for run in folders]
    if as_json:
        print(json.dumps({"runs": [state.to_json() for state in states]}, indent=1, allow_nan=False))
        return
    if watch:
        states = _watch(reader, folders, states)
    from zigma_bench.reports.terminal import print_wide

    for state in states:
        print_wide(show_state(state, state.cells))


def _watch(reader: StatusReader, folders: Sequence[Path], states: list[RunState]) -> list[RunState]:
    """Refresh the terminal until no process works on any of the runs, or the user stops it. Returns the last states."""
    from rich.live import Live

    from zigma_bench.reports.terminal import InertConsole

    console = InertConsole()
    try:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while any(state.is_worked_on for state in states):
                rows = max(3, console.height // len(states) - 8)
                live.update(Group(*(show_state(state, _most_telling(state, rows)) for state in states)), refresh=True)
                time.sleep(REFRESH_SECONDS)
                states = [reader.read(run) for run in folders]
    except KeyboardInterrupt:  # the usual way to stop watching
        pass
    return states


def _most_telling(state: RunState, count: int) -> list[CellState]:
    """As many cells as fit a screen, in their order: those at work first, then failed, waiting and done ones."""

    def rank(cell: CellState) -> int:
        found = {one.state for one in cell.stages.values()}
        return 0 if cell.process is not None else 1 if "failed" in found else 3 if cell.is_done else 2

    chosen = sorted(range(len(state.cells)), key=lambda index: (rank(state.cells[index]), index))[:count]
    return [state.cells[index] for index in sorted(chosen)]


def show_state(state: RunState, cells: Sequence[CellState]) -> RenderableType:
    """A table of some cells of a run, and lines about what runs, what failed, and the totals."""
    stages = list(dict.fromkeys(stage for cell in state.cells for stage in cell.stages))
    title = f"{state.suite} · {state.run}{' (smoke run)' if state.smoke else ''}"
    table = RichTable(
        title=Text(visible(title)), title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("cell", overflow="fold")
    for stage in stages:
        table.add_column(stage, no_wrap=True)
    for cell in cells:
        shown = [_stage_text(cell.stages[stage]) if stage in cell.stages else Text("") for stage in stages]
        table.add_row(Text(visible(cell.label)), *shown)
    lines = [f"{len(state.cells) - len(cells)} more cells"] if len(cells) < len(state.cells) else []
    return Group(table, Text(""), *(Text(visible(line)) for line in [*lines, *_lines_of(state)]))


def _stage_text(one: StageState) -> Text:
    from zigma_bench.cli.show import format_duration

    words: str = one.state
    if one.state == "done" and one.seconds is not None:
        words = f"done {format_duration(one.seconds)}"
    elif one.progress is not None and one.progress.total:
        words = f"running {min(1.0, one.progress.done / one.progress.total):.0%}"
    return Text(words, style=STYLES[one.state])


def _lines_of(state: RunState) -> Iterator[str]:
    for cell in state.cells:
        if cell.process is not None:
            yield f"running: {cell.label}: {_describe_work(cell)}"
    for process in state.encoding:
        yield f"running: latents are encoded by {process}"
    for cell in state.cells:
        for stage, one in cell.stages.items():
            if one.state == "failed":
                yield f"failed: {cell.label}: {stage}: {one.reason}"
    for cell in state.cells:
        for stage, one in cell.stages.items():
            if one.state == "waiting" and one.reason is not None and not one.reason.endswith(" failed"):
                yield f"waiting: {cell.label}: {stage}: {one.reason}"
    yield _totals(state)
    if state.unselected:
        rows, cells = len(state.unselected), sum(state.unselected.values())
        yield f"{cells:,} more cells wait for the choice of a value in {rows:,} rows; `plan` prices them"
    yield _time_left(state)


def _describe_work(cell: CellState) -> str:
    """What a process does in a cell, where, and since when."""
    from zigma_bench.cli.show import format_duration

    stage = next((stage for stage, one in cell.stages.items() if one.state == "running"), None)
    if stage is None:
        return f"between two stages, {cell.process}"
    progress = cell.stages[stage].progress
    if progress is None:
        return f"{stage} starts, {cell.process}"
    amount = "" if not progress.total else f" {progress.done:,.0f} of {progress.total:,.0f}"
    text = f" ({progress.text})" if progress.text else ""
    since = datetime.fromtimestamp(progress.started).strftime("%H:%M:%S")
    elapsed = format_duration(max(0.0, time.time() - progress.started))
    return f"{stage}{amount}{text}, since {since} ({elapsed}), {progress.device}, {cell.process}"


def _totals(state: RunState) -> str:
    done = sum(cell.is_done for cell in state.cells)
    stages = ", ".join(f"{count:,} {name}" for name, count in state.counts.items() if count)
    return f"{done:,} of {len(state.cells):,} cells are done; stages: {stages or 'none'}"


def _time_left(state: RunState) -> str:
    """Whether a command works on the run, and how long it will."""
    from zigma_bench.cli.show import format_duration

    if state.seconds_left == 0.0:
        left = ""
    elif state.seconds_left is None:
        left = f"; time left: unknown, {state.estimated_from}"
    else:
        what = "time left" if state.is_worked_on else "left to do"
        left = f"; {what}: about {format_duration(state.seconds_left)}, from {state.estimated_from}"
    if state.is_worked_on:
        return f"a command works on this run{left}"
    return f"no command works on this run{left}"
