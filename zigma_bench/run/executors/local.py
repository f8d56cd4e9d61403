"""Walks a plan on this machine: a fresh process a cell, one at a time, and only the stages that are not done.

Efficiency has a process of its own, so that nothing a cell did before is in its memory peak (but in a smoke run, whose
figures mean nothing). A cell that fails leaves a record with the reason and the others still run.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from zigma_bench.errors import ComparisonRefused, Interrupted, NewerFormat
from zigma_bench.plan import Cell, Plan, Stage
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.records.record import Record
from zigma_bench.records.store import (
    LEAST_BYTES,
    TABLE,
    check_writable,
    clear_leftovers,
    has_writer,
    owner_of,
    read_table_file,
    stage_folder,
    suite_folder,
    write_json,
    write_record,
)
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.encode import encode_latents, text_cells, text_problems
from zigma_bench.run.process import INTERRUPTED, run_job
from zigma_bench.system.device import Device
from zigma_bench.system.notices import notice

LOG = "log.txt"
WAIT_SECONDS = 0.5  # between two looks at a lock


class Watcher(Protocol):
    """Shows how a run goes on."""

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None: ...

    def event(self, cell: Cell, event: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `done`, `failed` (with the reason), `skipped` (everything was done before) or `busy`
    (another process is at work on it)."""

    cell: Cell
    folder: Path
    status: str
    reason: str | None = None


def run_plan(plan: Plan, results: Path, device: Device, watcher: Watcher, *, stages: Sequence[Stage]) -> list[Outcome]:
    """Bring every cell of a plan up to date, in order; raises Interrupted when asked to stop.

    Cells at which another process is at work come last, once it has let go of them.
    """
    folder = suite_folder(results, plan.suite.name, smoke=plan.smoke)
    check_writable(folder)
    clear_leftovers(results)
    check_writable(folder, _needed_bytes(plan, results, device, stages))
    write_table(plan, results, device)
    _encode_first(plan, results, device, watcher, stages)
    run = functools.partial(run_cell, results=results, device=device, watcher=watcher, stages=stages)
    outcomes = [run(cell) for cell in plan.cells]
    for _ in range(rounds_of(plan) - 1):  # of efficiency, the cells alternating
        outcomes = [_next_round(outcome, run) for outcome in outcomes]
    outcomes = [_after_waiting(outcome, run, watcher, rounds_of(plan)) for outcome in outcomes]
    clear_leftovers(results)
    return outcomes


def _needed_bytes(plan: Plan, results: Path, device: Device, stages: Sequence[Stage]) -> int:
    """About what the largest cell that is due writes at once: two checkpoints of weights, averages and Adam's moments,
    and its images twice; nothing where nothing is due."""
    most = 0
    for cell in plan.cells:
        with contextlib.suppress(ComparisonRefused):
            if find_due(cell, cell_folder(results, cell), device, stages).stages:
                trained = cell.parameters * 4 * 8 if "train" in stages and cell.role == "cell" else 0
                images = cell.sample.count * cell.frames * cell.height * cell.width * 3 if not cell.timed_alone else 0
                most = max(most, LEAST_BYTES, trained + 2 * images)
    return most


def _encode_first(plan: Plan, results: Path, device: Device, watcher: Watcher, stages: Sequence[Stage]) -> None:
    """Bring the caches up to date that a stage will read; what is there is checked against its checksums.

    NotReady where features of captions are broken: those that are not there yet the first cell makes.
    """

    def reads(cell: Cell) -> bool:
        try:
            left = find_due(cell, cell_folder(results, cell), device, stages).stages
        except ComparisonRefused:  # its row says why
            return False
        return "train" in left or "quality" in left or (cell.role == "reconstruction" and bool(left))

    due = [cell for cell in plan.cells if reads(cell)]
    for cell in text_cells(due):
        assert cell.text is not None, "it reads texts"
        if problems := text_problems(cell.text):
            raise problems[0]
    cells = [cell for cell in due if cell.latents is not None]
    if cells:
        began = time.monotonic()
        watcher.event(cells[0], {"event": "start", "stage": "encode"})
        encode_latents(cells, results, device, watcher.event)
        watcher.event(cells[0], {"event": "done", "stage": "encode", "seconds": time.monotonic() - began})


def rounds_of(plan: Plan) -> int:
    """How often each cell is come to."""
    return 1 if plan.suite.efficiency is None else plan.suite.efficiency.rounds


def _next_round(before: Outcome, run: Callable[[Cell], Outcome]) -> Outcome:
    """One round more of a cell that has not failed."""
    if before.status == "failed":
        return before
    after = run(before.cell)
    return before if after.status == "skipped" else after


def _after_waiting(before: Outcome, run: Callable[[Cell], Outcome], watcher: Watcher, rounds: int) -> Outcome:
    """What becomes of a cell that was busy, once the process that was at work on it has let go of it."""
    if before.status != "busy":
        return before
    outcome = before
    while outcome.status == "busy":
        watcher.event(before.cell, {"event": "notice", "text": f"waiting for {owner_of(before.folder)} to finish it"})
        while has_writer(before.folder):
            time.sleep(WAIT_SECONDS)
        outcome = run(before.cell)
    for _ in range(rounds - 1):
        outcome = _next_round(outcome, run)
    return outcome


def run_cell(cell: Cell, results: Path, device: Device, watcher: Watcher, stages: Sequence[Stage]) -> Outcome:
    """Bring one cell up to date; a broken record or a failing disk costs this cell alone."""
    try:
        return _up_to_date(cell, results, device, watcher, stages)
    except (OSError, ComparisonRefused) as error:
        reason = reason_of(error)
        watcher.event(cell, {"event": "failed", "stage": "", "text": reason})
        return Outcome(cell, cell_folder(results, cell), "failed", reason)


def _up_to_date(cell: Cell, results: Path, device: Device, watcher: Watcher, stages: Sequence[Stage]) -> Outcome:
    folder = cell_folder(results, cell)
    due = find_due(cell, folder, device, stages).stages
    watcher.begin(cell, due)
    if not due:
        return Outcome(cell, folder, "skipped")
    if has_writer(folder):
        return Outcome(cell, folder, "busy")
    for group in _processes(cell, stages, due):
        outcome = _spawn(cell, folder, results, device, watcher, group)
        if outcome.status != "done":
            return outcome
    return Outcome(cell, folder, "done")


def _processes(cell: Cell, stages: Sequence[Stage], due: Sequence[Stage]) -> list[tuple[Stage, ...]]:
    """The stages that share a process, of those asked for: efficiency has its own, but in a smoke run, where starting
    one is most of it. What another stage needs is done in its process."""
    asked = tuple(stage for stage in cell.stages if stage in stages)
    if cell.smoke:
        return [asked]
    alone = tuple(stage for stage in due if stage == "efficiency")
    together = tuple(stage for stage in asked if stage != "efficiency")
    return [group for group in (together if set(due) - set(alone) else (), alone) if group]


def write_table(plan: Plan, results: Path, device: Device) -> None:
    """Note which records the suite's table stands on, so that a report tells them from those of earlier suites."""
    rows = []
    for cell in plan.all_cells:
        hashes = {stage: cell.identity(stage, card=device.card) for stage in cell.stages}
        rows.append({
            "folder": cell_folder(results, cell).name, "stages": hashes, "role": cell.role, "seed": cell.seed,
            "backbone": cell.backbone_label, "scan": cell.scan_label, "smoke": cell.smoke, "data": cell.data_label,
            "parameters": cell.parameters, "forward_flops": sum(cell.forward_flops.values()),
            "flops_by": cell.flops_by, "scanned_ratio": cell.scanned_ratio, "tokens": cell.tokens,
            "size_match": cell.size_match and cell.size_match.model_dump(mode="json"), "setting": cell.setting,
        })  # fmt: skip
    suite = plan.suite
    residuals = {
        str(c.backbone.options["residual"]) for c in plan.all_cells if c.backbone and "residual" in c.backbone.options
    }
    spent = {} if suite.budget is None else suite.budget.model_dump(exclude_none=True)
    table = {
        "format": 1, "suite": suite.name, "question": plan.question, "smoke": plan.smoke, "budget": spent,
        "reference": suite.reference.label, "sample_count": suite.sample.count, "residual": sorted(residuals),
        "baseline": {"backbone": plan.baseline.backbone_label, "scan": plan.baseline.scan_label}, "cells": rows,
    }  # fmt: skip
    path = suite_folder(results, suite.name, smoke=plan.smoke) / TABLE
    if _table_now(path) != json.loads(json.dumps(table)):
        write_json(path, table)


def _table_now(path: Path) -> dict[str, Any] | None:
    """The file of the suite's table; one that is broken is reported, and counts as absent: it is written anew."""
    try:
        return read_table_file(path)
    except NewerFormat:
        raise
    except ComparisonRefused:
        notice(f"{path}: the file is broken; it is written anew")
        return None


def _spawn(
    cell: Cell, folder: Path, results: Path, device: Device, watcher: Watcher, stages: Sequence[Stage]
) -> Outcome:
    """Bring stages up to date in a fresh process."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "cell": cell.model_dump(mode="json"), "results": str(results.resolve()), "folder": folder.name,
        "stages": list(stages), "device": asdict(device),
    }  # fmt: skip
    reason: str | None = None
    busy = False
    stage: Stage = stages[0]

    def heard(event: dict[str, Any]) -> None:
        nonlocal stage, reason, busy
        stage = event.get("stage", stage)
        busy = busy or event["event"] == "busy"
        reason = event["text"] if event["event"] in ("failed", "stopped") else reason
        watcher.event(cell, event)

    code = run_job("zigma_bench.run.workers.cell", job, folder / LOG, heard)
    if code == Interrupted.exit_code:
        raise Interrupted(reason or INTERRUPTED)
    if code == 0:
        return Outcome(cell, folder, "busy" if busy else "done")
    if reason is None and not find_due(cell, folder, device, stages).stages:
        return Outcome(cell, folder, "done")  # it died after its last record
    if reason is None:
        reason = _reason_of(code, folder)
        with contextlib.suppress(OSError):  # on a full disk the outcome alone has the reason
            _write_death(cell, folder, device, stage, reason)
    return Outcome(cell, folder, "failed", f"{stage}: {reason}")


def _reason_of(code: int, folder: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (often the system, out of memory)" if name == "SIGKILL" else ""
        return f"the cell's process was ended by {name}{hint}; its log: {folder / LOG}"
    return f"the cell's process ended with code {code}; its log: {folder / LOG}"


def _write_death(cell: Cell, folder: Path, device: Device, stage: Stage, reason: str) -> None:
    """The record that a process which died could not leave itself."""
    identity = cell.identity(stage, card=device.card)
    record = Record(stage, identity, cell.model_dump(mode="json"), "failed", reason=reason)
    write_record(stage_folder(folder, stage, identity), record)
