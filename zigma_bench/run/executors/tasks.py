"""What an executor does with a cell before it runs: it reuses finished stages, finds the due ones and groups them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import ComparisonRefused
from zigma_bench.plan import Cell, Stage
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.records.record import Record
from zigma_bench.records.store import has_writer, stage_folder, write_record
from zigma_bench.run.command import command_provenance
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.executors.executor import CellOutcome, RunPlace
from zigma_bench.run.reuse import other_folders, reuse_stages


@dataclass(frozen=True)
class DueCell:
    """A cell with due stages. `busy`: the folder where another process works on it, perhaps in another run, or None."""

    cell: Cell
    folder: Path
    due: tuple[Stage, ...]
    busy: Path | None


def find_task(cell: Cell, place: RunPlace) -> DueCell | CellOutcome:
    """Reuse finished stages of other runs, and return what is left to do, or the outcome if nothing is or can be done.

    A broken record or a disk error fails only this cell.
    """
    folder = cell_folder(place.folder, cell)
    try:
        due, reused = find_due(cell, folder, place.device, place.stages).stages, None
        if due:
            reused = reuse_stages(cell, place.results, folder, place.device, place.stages)
            due = find_due(cell, folder, place.device, place.stages).stages
        if reused is not None:
            place.watcher.event(cell, {"event": "notice", "text": reused})
        if not due:
            return CellOutcome(cell, folder, "skipped")
        places = (folder, *other_folders(place.results, cell, folder))
        return DueCell(cell, folder, due, next((one for one in places if has_writer(one)), None))
    except (OSError, ComparisonRefused) as error:
        reason = reason_of(error)
        place.watcher.event(cell, {"event": "failed", "stage": "", "text": reason})
        return CellOutcome(cell, folder, "failed", reason)


def still_due(task: DueCell, place: RunPlace) -> tuple[Stage, ...]:
    """The stages of a cell that are due now. Raises ComparisonRefused for a record of a later version, and OSError."""
    return find_due(task.cell, task.folder, place.device, place.stages).stages


def stages_together(cell: Cell, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The requested stages of a cell that one process runs.

    Efficiency runs alone, except in a smoke run, whose values are meaningless.
    """
    return tuple(stage for stage in cell.stages if stage in stages and (cell.smoke or stage != "efficiency"))


def exit_reason(code: int, log: Path) -> str:
    """Why a worker process ended, from its exit code."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (often by the system because memory ran out)" if name == "SIGKILL" else ""
        return f"the cell's process was killed by {name}{hint}; its log: {log}"
    return f"the cell's process ended with code {code}; its log: {log}"


def write_failed_record(task: DueCell, place: RunPlace, stage: Stage, reason: str) -> None:
    """Write the failed record for a process that ended before it could write one."""
    identity = task.cell.identity(stage, device_model=place.device.model_name)
    facts = task.cell.model_dump(mode="json")
    record = Record(
        stage, identity, facts, "failed", reason=reason, provenance=command_provenance(place.device, place.executor)
    )
    write_record(stage_folder(task.folder, stage, identity), record)
