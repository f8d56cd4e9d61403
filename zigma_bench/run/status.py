"""The state of a run, from its files alone, so that any process can read it while another one works.

The table file lists the cells and the identities of their stages. A record says that a stage is done or failed. The
lock of a cell's folder says whether a process works on it, and `.progress` how far that process is.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from zigma_bench.errors import ComparisonRefused
from zigma_bench.records.progress import StageProgress, read_progress
from zigma_bench.records.record import STAGES, Record, Stage, without_outdated
from zigma_bench.records.store import (
    RECORD,
    SPEC,
    has_writer,
    is_worked_on,
    owner_of,
    read_record,
    stage_folder,
)
from zigma_bench.records.table_file import TableCell, require_table_file

State = Literal["done", "failed", "running", "waiting"]
STATES: tuple[State, ...] = ("done", "failed", "running", "waiting")


@dataclass(frozen=True)
class StageState:
    """A stage of a cell. `reason`: why it failed, or what a waiting stage waits for. `seconds`: how long it took."""

    state: State
    reason: str | None = None
    seconds: float | None = None
    progress: StageProgress | None = None


@dataclass(frozen=True)
class CellState:
    """A cell of a run. `process`: the process that works on it now, as HOST process NUMBER."""

    label: str
    facts: TableCell
    stages: Mapping[Stage, StageState]
    process: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether all stages are done."""
        return all(one.state == "done" for one in self.stages.values())


@dataclass(frozen=True)
class RunState:
    """A run. `is_worked_on`: whether a command works on it, even between two cells. `encoding`: processes that encode
    latents in its results folder. `unselected`: for each row whose value is not chosen yet, the number of cells that
    wait for the choice. `seconds_left` is None if it can't be estimated; `estimated_from` says why, or what the
    estimate is from."""

    suite: str
    run: str
    folder: Path
    smoke: bool
    is_worked_on: bool
    cells: tuple[CellState, ...]
    encoding: tuple[str, ...] = ()
    unselected: Mapping[str, int] = field(default_factory=dict)
    seconds_left: float | None = None
    estimated_from: str = ""

    @property
    def counts(self) -> dict[State, int]:
        """The number of stages in each state."""
        found = Counter(one.state for cell in self.cells for one in cell.stages.values())
        return {state: found[state] for state in STATES}

    @property
    def running(self) -> int:
        """The number of cells that a process works on."""
        return sum(cell.process is not None for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        """The state as a JSON document."""
        return {
            "suite": self.suite, "run": self.run, "folder": str(self.folder), "smoke": self.smoke,
            "is_worked_on": self.is_worked_on, "encoding": list(self.encoding), "stages": self.counts,
            "waiting_for_selection": dict(self.unselected),
            "cells_done": sum(cell.is_done for cell in self.cells), "cell_count": len(self.cells),
            "seconds_left": self.seconds_left, "estimated_from": self.estimated_from,
            "cells": [
                {"label": cell.label, "folder": cell.facts.folder, "process": cell.process,
                 "stages": {stage: asdict(one) for stage, one in cell.stages.items()}}
                for cell in self.cells
            ],
        }  # fmt: skip


@dataclass
class StatusReader:
    """Reads the states of runs, again and again, and parses each record only once."""

    _records: dict[tuple[Path, int], Record | str] = field(default_factory=dict)

    def read(self, folder: Path) -> RunState:
        """The state of the run in a folder. UsageError if there is no table file, ComparisonRefused if it is broken."""
        table = require_table_file(folder)
        cells = tuple(self._read_cell(folder, cell) for cell in table.cells)
        state = RunState(
            suite=table.suite,
            run=table.run,
            folder=folder,
            smoke=table.smoke,
            is_worked_on=is_worked_on(folder) or any(cell.process is not None for cell in cells),
            cells=cells,
            encoding=_encoding_processes(folder.parent.parent),
            unselected=table.waiting,
        )
        return estimate_time_left(state)

    def _read_cell(self, run: Path, facts: TableCell) -> CellState:
        folder = run / facts.folder
        process = owner_of(folder) if has_writer(folder) else None
        progress = read_progress(folder) if process is not None else None
        read = {stage: self._read_record(folder, stage, facts) for stage in STAGES if stage in facts.stages}
        valid = without_outdated({stage: one for stage, one in read.items() if isinstance(one, Record)})
        stages: dict[Stage, StageState] = {}
        for stage, one in read.items():
            if progress is not None and progress.stage == stage and not _is_newer(one, progress):
                stages[stage] = StageState("running", progress=progress)
                continue
            failed = next((name for name, earlier in stages.items() if earlier.state == "failed"), None)
            begun = (stage_folder(folder, stage, facts.stages[stage]) / SPEC).exists()
            waits_for = f"{failed} failed" if failed else "begun, not finished" if begun else None
            stages[stage] = _stage_state(one, stage in valid, waits_for)
        return CellState(label_of(facts), facts, stages if process is None else _with_running(stages), process)

    def _read_record(self, folder: Path, stage: Stage, facts: TableCell) -> Record | str | None:
        """The record of a stage; a text if it can't be read; None if there is none."""
        place = stage_folder(folder, stage, facts.stages[stage])
        try:
            key = place, (place / RECORD).stat().st_mtime_ns
        except OSError:
            return None
        if key not in self._records:
            try:
                found = read_record(place, facts.stages[stage])
            except ComparisonRefused as error:
                self._records[key] = str(error)
            else:
                if found is None:
                    return None
                self._records[key] = found
        return self._records[key]


def _is_newer(record: Record | str | None, progress: StageProgress) -> bool:
    """Whether a record was written by the work that the progress is of, which has therefore ended."""
    if not isinstance(record, Record):
        return False
    started, seconds = (record.provenance.get(key) for key in ("started", "seconds"))
    known = isinstance(started, int | float) and isinstance(seconds, int | float)
    return known and started + seconds >= progress.started  # type: ignore[operator]


def _stage_state(record: Record | str | None, is_valid: bool, waits_for: str | None) -> StageState:
    """The state of a stage that doesn't run now."""
    if isinstance(record, str):
        return StageState("failed", record)
    if record is not None and record.status == "failed":
        return StageState("failed", record.reason)
    if record is not None and is_valid:
        return StageState("done", seconds=_seconds_of(record))
    return StageState("waiting", waits_for if record is None else "an earlier stage has written other files since")


def _with_running(stages: Mapping[Stage, StageState]) -> dict[Stage, StageState]:
    """The stages of a cell that a process works on: without progress, the first that is not done is about to start."""
    found = dict(stages)
    if not any(one.state == "running" for one in found.values()):
        first = next((stage for stage, one in found.items() if one.state != "done"), None)
        if first is not None:
            found[first] = StageState("running")
    return found


def _seconds_of(record: Record) -> float | None:
    """How long a stage took; of a timed cell, all of its rounds."""
    seconds = record.provenance.get("seconds")
    if not isinstance(seconds, int | float):
        return None
    timed = record.cell.get("efficiency")
    rounds = timed.get("rounds", 1) if record.stage == "efficiency" and isinstance(timed, dict) else 1
    return seconds * rounds if isinstance(rounds, int) else seconds


def label_of(facts: TableCell) -> str:
    """The label of a cell, as in the plan."""
    role = "tuning" if facts.tunes else None if facts.role == "cell" else facts.role
    words = [facts.data, role, facts.backbone, facts.scan]
    if facts.setting is None:
        words += [*facts.varied.values(), f"seed {facts.seed}"]
    else:
        timed = [facts.setting.backend, f"{facts.setting.tokens} tokens", f"batch {facts.setting.batch}"]
        words += [*timed, *facts.varied.values()]
    return " · ".join(word for word in words if word)


def _encoding_processes(results: Path) -> tuple[str, ...]:
    """The processes that write a cache of latents."""
    folders = sorted((results / ".cache" / "latents").glob("*/"))
    return tuple(owner_of(folder) for folder in folders if has_writer(folder))


# The time that is left


def estimate_time_left(state: RunState) -> RunState:
    """The state with an estimate of the time until all stages are done that can be, from the durations in the run.

    A stage takes as long as the median of its row, else of its role, else of all cells. Cells that run at the same time
    are counted as going on side by side.
    """
    durations = _Durations(state)
    left, unknown = 0.0, set[str]()
    for cell, stage, one in _unfinished(state):
        seconds = durations.of(cell, stage)
        if seconds is None:
            unknown.add(stage)
            continue
        left += seconds if one.progress is None else _seconds_left(one.progress, seconds)
    if unknown:
        names = " or ".join(stage for stage in STAGES if stage in unknown)
        return replace(state, estimated_from=f"no stage {names} of this run is done yet")
    source = f"the durations of {durations.count} stages of this run" if left else ""
    return replace(state, seconds_left=left / max(1, state.running), estimated_from=source)


def _seconds_left(progress: StageProgress, usual: float) -> float:
    """The seconds until a running stage is done: at its own pace, else if it takes as long as usual."""
    if (whole := progress.projected_seconds) is not None and progress.total:
        return whole * (1 - progress.done / progress.total)
    return max(0.0, usual - (progress.updated - progress.started))


def _unfinished(state: RunState) -> Iterator[tuple[CellState, Stage, StageState]]:
    """The stages that will run: not those that have failed, nor those after them."""
    for cell in state.cells:
        for stage, one in cell.stages.items():
            if one.state == "failed":
                break
            if one.state != "done":
                yield cell, stage, one


class _Durations:
    """How long the stages of a run take, by row, by role and in all cells."""

    def __init__(self, state: RunState) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        self.count = 0
        for cell in state.cells:
            for stage, one in cell.stages.items():
                seconds = one.seconds if one.progress is None else one.progress.projected_seconds
                if seconds is not None:
                    self.count += 1
                    for key in _groups_of(cell, stage):
                        self._seconds.setdefault(key, []).append(seconds)

    def of(self, cell: CellState, stage: Stage) -> float | None:
        """The median duration of a stage; None if no such stage is done."""
        found = next((self._seconds[key] for key in _groups_of(cell, stage) if key in self._seconds), None)
        return None if found is None else statistics.median(found)


def _groups_of(cell: CellState, stage: Stage) -> tuple[tuple[str, ...], ...]:
    """The groups of stages whose durations are alike, the most alike first."""
    facts = cell.facts
    row = (str(facts.data), str(facts.backbone), str(facts.scan), str(facts.setting), str(facts.varied))
    return (stage, facts.role, *row), (stage, facts.role), (stage,)
