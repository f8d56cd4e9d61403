"""Run a plan on this machine: a fresh process for each cell, one at a time, and only the stages that are not done.

Efficiency runs in a separate process, so that its peak memory doesn't include earlier stages. In a smoke run, where the
measured values are meaningless, it shares the process. A cell that fails leaves a record with the reason, and the other
cells still run.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from zigma_bench.errors import ComparisonRefused, Interrupted
from zigma_bench.plan import Cell, Plan, Stage
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.records.record import Record
from zigma_bench.records.store import (
    LEAST_BYTES,
    check_writable,
    clear_leftovers,
    has_writer,
    owner_of,
    stage_folder,
    write_record,
)
from zigma_bench.run.command import command_provenance
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.encode import encode_latents, text_cells, text_problems
from zigma_bench.run.process import INTERRUPTED, run_job
from zigma_bench.run.reuse import other_folders, reuse_stages
from zigma_bench.run.runs import mark_updated, open_run
from zigma_bench.system.device import Device

LOG = "log.txt"
WAIT_SECONDS = 0.5  # between two checks of a lock


class Watcher(Protocol):
    """Shows the progress of a run."""

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None: ...

    def event(self, cell: Cell, event: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class CellOutcome:
    """The result of a cell: `done`, `failed` (with the reason), `skipped` (everything was done before) or `busy`.

    A cell is busy if another process works on it. `busy_folder` is the folder where it works, perhaps in another run.
    """

    cell: Cell
    folder: Path
    status: str
    reason: str | None = None
    busy_folder: Path | None = None


@dataclass(frozen=True)
class RunPlace:
    """Where cells run and where their results are written. `folder`: the folder of the run in `results`."""

    results: Path
    folder: Path
    device: Device
    watcher: Watcher
    stages: Sequence[Stage]


def run_plan(
    plan: Plan,
    results: Path,
    device: Device,
    watcher: Watcher,
    *,
    stages: Sequence[Stage],
    name: str | None = None,
) -> list[CellOutcome]:
    """Bring every cell of a plan up to date, in order. Raises Interrupted when asked to stop.

    `name`: the name of the run; by default it is the run with the options of the plan. Finished stages of the suite's
    other runs are reused. Cells that another process works on come last, after that process has finished them.
    """
    check_writable(results)
    clear_leftovers(results)
    run = open_run(plan, results, device, name)
    place = RunPlace(results, run.folder, device, watcher, stages)
    reused = _reuse_finished_stages(plan, place)
    due = _find_all_due(plan, place)
    check_writable(run.folder, max((_needed_bytes(cell, stages) for cell in due), default=0))
    if due and not run.is_new:
        mark_updated(run)
    _encode_latents_first(due, place)

    def run_one(cell: Cell) -> CellOutcome:
        return run_cell(cell, place, reused.pop(cell_folder(run.folder, cell), None))

    outcomes = [run_one(cell) for cell in plan.cells]
    for _ in range(rounds_of(plan) - 1):  # further rounds of efficiency, so that the cells alternate
        outcomes = [_run_next_round(outcome, run_one) for outcome in outcomes]
    outcomes = [_wait_and_run(outcome, run_one, watcher, rounds_of(plan)) for outcome in outcomes]
    clear_leftovers(results)
    return outcomes


def _reuse_finished_stages(plan: Plan, place: RunPlace) -> dict[Path, str]:
    """Reuse finished stages of other runs before anything is encoded. Returns a sentence about each such cell, by
    folder.

    A cell with an unreadable record or file is skipped here; when it runs, it becomes a failed row with the reason.
    """
    found = dict[Path, str]()
    for cell in plan.cells:
        folder = cell_folder(place.folder, cell)
        with contextlib.suppress(ComparisonRefused, OSError):
            text = reuse_stages(cell, place.results, folder, place.device, place.stages)
            if text is not None:
                found[folder] = text
    return found


def _find_all_due(plan: Plan, place: RunPlace) -> list[Cell]:
    """The cells with a due stage, except those with an unreadable record: these become failed rows with the reason."""
    found = []
    for cell in plan.cells:
        with contextlib.suppress(ComparisonRefused):
            if find_due(cell, cell_folder(place.folder, cell), place.device, place.stages).stages:
                found.append(cell)
    return found


def _needed_bytes(cell: Cell, stages: Sequence[Stage]) -> int:
    """The approximate bytes that a cell writes: two checkpoints (weights, EMA, Adam's moments) and its images twice."""
    trained = cell.parameters * 4 * 8 if "train" in stages and cell.role == "cell" else 0
    images = cell.sample.count * cell.frames * cell.height * cell.width * 3 if not cell.timed_alone else 0
    return max(LEAST_BYTES, trained + 2 * images)


def _encode_latents_first(due: Sequence[Cell], place: RunPlace) -> None:
    """Complete the latent caches that due stages read, and compare existing caches with their checksums.

    NotReady if text features are broken. Missing text features are encoded by the first cell that reads them.
    """

    def reads(cell: Cell) -> bool:
        left = find_due(cell, cell_folder(place.folder, cell), place.device, place.stages).stages
        return "train" in left or "quality" in left or cell.role == "reconstruction"

    reading = [cell for cell in due if reads(cell)]
    for cell in text_cells(reading):
        assert cell.text is not None, "text cells have text features"
        if problems := text_problems(cell.text):
            raise problems[0]
    cells = [cell for cell in reading if cell.latents is not None]
    if cells:
        began = time.monotonic()
        place.watcher.event(cells[0], {"event": "start", "stage": "encode"})
        encode_latents(cells, place.results, place.device, place.watcher.event)
        seconds = time.monotonic() - began
        place.watcher.event(cells[0], {"event": "done", "stage": "encode", "seconds": seconds})


def rounds_of(plan: Plan) -> int:
    """How many times each cell runs: once for each round of its timing."""
    return 1 if plan.suite.efficiency is None else plan.suite.efficiency.rounds


def _run_next_round(before: CellOutcome, run: Callable[[Cell], CellOutcome]) -> CellOutcome:
    """Run another round of a cell, unless it has failed."""
    if before.status == "failed":
        return before
    after = run(before.cell)
    return before if after.status == "skipped" else after


def _wait_and_run(
    before: CellOutcome, run: Callable[[Cell], CellOutcome], watcher: Watcher, rounds: int
) -> CellOutcome:
    """Wait until the other process has finished a busy cell, then run the cell."""
    if before.status != "busy":
        return before
    outcome = before
    while outcome.status == "busy":
        folder = outcome.busy_folder or outcome.folder
        watcher.event(before.cell, {"event": "notice", "text": f"waiting for {owner_of(folder)} to finish it"})
        while has_writer(folder):
            time.sleep(WAIT_SECONDS)
        outcome = run(before.cell)
    for _ in range(rounds - 1):
        outcome = _run_next_round(outcome, run)
    return outcome


def run_cell(cell: Cell, place: RunPlace, reused: str | None = None) -> CellOutcome:
    """Bring one cell up to date. A broken record or a disk error fails only this cell.

    `reused`: a sentence about its stages that were reused from another run.
    """
    try:
        return _bring_up_to_date(cell, place, reused)
    except (OSError, ComparisonRefused) as error:
        reason = reason_of(error)
        place.watcher.event(cell, {"event": "failed", "stage": "", "text": reason})
        return CellOutcome(cell, cell_folder(place.folder, cell), "failed", reason)


def _bring_up_to_date(cell: Cell, place: RunPlace, reused: str | None) -> CellOutcome:
    folder = cell_folder(place.folder, cell)
    due = find_due(cell, folder, place.device, place.stages).stages
    if due and reused is None:  # another run may have finished them meanwhile
        reused = reuse_stages(cell, place.results, folder, place.device, place.stages)
        due = find_due(cell, folder, place.device, place.stages).stages
    place.watcher.begin(cell, due)
    if reused is not None:
        place.watcher.event(cell, {"event": "notice", "text": reused})
    if not due:
        return CellOutcome(cell, folder, "skipped")
    for busy in (folder, *other_folders(place.results, cell, folder)):
        if has_writer(busy):
            return CellOutcome(cell, folder, "busy", busy_folder=busy)
    for group in _process_groups(cell, place.stages, due):
        outcome = _run_in_process(cell, folder, place.results, place.device, place.watcher, group)
        if outcome.status != "done":
            return outcome
    return CellOutcome(cell, folder, "done")


def _process_groups(cell: Cell, stages: Sequence[Stage], due: Sequence[Stage]) -> list[tuple[Stage, ...]]:
    """Group the requested stages by process. Efficiency runs separately, except in a smoke run, where starting a
    process takes most of the time. A process also runs the earlier stages that its stages need."""
    asked = tuple(stage for stage in cell.stages if stage in stages)
    if cell.smoke:
        return [asked]
    separate = tuple(stage for stage in due if stage == "efficiency")
    together = tuple(stage for stage in asked if stage != "efficiency")
    return [group for group in (together if set(due) - set(separate) else (), separate) if group]


def _run_in_process(
    cell: Cell, folder: Path, results: Path, device: Device, watcher: Watcher, stages: Sequence[Stage]
) -> CellOutcome:
    """Bring stages up to date in a fresh process."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "cell": cell.model_dump(mode="json"), "results": str(results.resolve()),
        "folder": str(folder.resolve()),
        "stages": list(stages), "device": asdict(device), "provenance": command_provenance(device),
    }  # fmt: skip
    reason: str | None = None
    busy = False
    stage: Stage = stages[0]

    def on_event(event: dict[str, Any]) -> None:
        nonlocal stage, reason, busy
        stage = event.get("stage", stage)
        busy = busy or event["event"] == "busy"
        reason = event["text"] if event["event"] in ("failed", "stopped") else reason
        watcher.event(cell, event)

    code = run_job("zigma_bench.run.workers.cell", job, folder / LOG, on_event)
    if code == Interrupted.exit_code:
        raise Interrupted(reason or INTERRUPTED)
    if code == 0:
        return CellOutcome(cell, folder, "busy" if busy else "done")
    if reason is None and not find_due(cell, folder, device, stages).stages:
        return CellOutcome(cell, folder, "done")  # the process died after writing its last record
    if reason is None:
        reason = _exit_reason(code, folder)
        with contextlib.suppress(OSError):  # on a full disk, only the outcome contains the reason
            _write_failed_record(cell, folder, device, stage, reason)
    return CellOutcome(cell, folder, "failed", f"{stage}: {reason}")


def _exit_reason(code: int, folder: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (often by the system because memory ran out)" if name == "SIGKILL" else ""
        return f"the cell's process was killed by {name}{hint}; its log: {folder / LOG}"
    return f"the cell's process ended with code {code}; its log: {folder / LOG}"


def _write_failed_record(cell: Cell, folder: Path, device: Device, stage: Stage, reason: str) -> None:
    """Write the failed record for a process that died before it could write one."""
    identity = cell.identity(stage, device_model=device.model_name)
    origin = command_provenance(device)
    record = Record(stage, identity, cell.model_dump(mode="json"), "failed", reason=reason, provenance=origin)
    write_record(stage_folder(folder, stage, identity), record)
