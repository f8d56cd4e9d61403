"""Walks a plan on this machine: a fresh process a cell, one at a time, and only the stages that are not done.

Efficiency has a process of its own, so that nothing a cell did before is in its memory peak (but in a smoke run, whose
figures mean nothing). A cell that fails leaves a record with the reason and the others still run.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from zigma_bench.device import Device
from zigma_bench.errors import ComparisonRefused, Interrupted, reason_of
from zigma_bench.plan import Cell, Plan, Stage
from zigma_bench.record import Record
from zigma_bench.runner.encode import encode_latents, text_cells, text_problems
from zigma_bench.runner.process import INTERRUPTED, run_job
from zigma_bench.store import (
    LEAST_BYTES,
    TABLE,
    check_writable,
    read_record,
    read_table_file,
    stage_folder,
    suite_folder,
    write_json,
    write_record,
)

LOG = "log.txt"


class Watcher(Protocol):
    """Shows how a run goes on."""

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None: ...

    def event(self, cell: Cell, event: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `done`, `failed` (with the reason) or `skipped` (everything was done before)."""

    cell: Cell
    folder: Path
    status: str
    reason: str | None = None


def cell_folder(results: Path, cell: Cell) -> Path:
    """The folder of a cell: its label made safe, and the hash of what it trains."""
    base: Stage = "train" if cell.role == "cell" else "sample"
    identity = cell.identity(base, card="")
    suite = suite_folder(results, cell.suite, smoke=cell.smoke)
    earlier = sorted(suite.glob(f"*-{identity[:8]}"))  # under the label that it had when the suite had other rows
    return earlier[0] if earlier else suite / f"{cell.slug}-{identity[:8]}"


def pending(results: Path, cell: Cell, stages: Iterable[Stage], device: Device) -> list[Stage]:
    """The stages among `stages` that have no record of success under their identity, and all that follow from them."""
    folder, due = cell_folder(results, cell), list[Stage]()
    for stage in cell.stages:
        identity = cell.identity(stage, card=device.card)
        record = read_record(stage_folder(folder, stage, identity), identity)
        follows = stage in ("sample", "quality") and ("train" in due or "sample" in due)
        if stage in stages and (record is None or record.status != "done" or follows):
            due.append(stage)
    return due


def run_plan(plan: Plan, results: Path, device: Device, watcher: Watcher, *, stages: Sequence[Stage]) -> list[Outcome]:
    """Bring every cell of a plan up to date, in order; raises Interrupted when asked to stop."""
    check_writable(
        suite_folder(results, plan.suite.name, smoke=plan.smoke), _needed_bytes(plan, results, device, stages)
    )
    write_table(plan, results, device)
    _encode_first(plan, results, device, watcher, stages)
    outcomes = [run_cell(cell, results, device, watcher, stages) for cell in plan.cells]
    for _ in range(rounds_of(plan) - 1):  # of efficiency, the cells alternating
        outcomes = [_next_round(outcome, results, device, watcher, stages) for outcome in outcomes]
    return outcomes


def _needed_bytes(plan: Plan, results: Path, device: Device, stages: Sequence[Stage]) -> int:
    """About what the largest cell that is due writes at once: two checkpoints of weights, averages and Adam's moments,
    and its images twice; nothing where nothing is due."""
    most = 0
    for cell in plan.cells:
        with contextlib.suppress(ComparisonRefused):
            if pending(results, cell, stages, device):
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
            left = pending(results, cell, stages, device)
        except ComparisonRefused:  # a broken record, which the cell itself will report
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


def _next_round(before: Outcome, results: Path, device: Device, watcher: Watcher, stages: Sequence[Stage]) -> Outcome:
    """One round more of a cell that has not failed."""
    if before.status == "failed":
        return before
    after = run_cell(before.cell, results, device, watcher, stages)
    return before if after.status == "skipped" else after


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
    due = pending(results, cell, stages, device)
    watcher.begin(cell, due)
    if not due:
        return Outcome(cell, folder, "skipped")
    for group in _processes(cell, due):
        if group and (reason := _spawn(cell, folder, results, device, watcher, group)) is not None:
            return Outcome(cell, folder, "failed", reason)
    return Outcome(cell, folder, "done")


def _processes(cell: Cell, due: Sequence[Stage]) -> list[tuple[Stage, ...]]:
    """The stages that share a process: efficiency has its own, but in a smoke run, where starting one is most of it."""
    if cell.smoke:
        return [tuple(due)]
    return [tuple(s for s in due if s != "efficiency"), tuple(s for s in due if s == "efficiency")]


def write_table(plan: Plan, results: Path, device: Device) -> None:
    """Note which records the suite's table stands on, so that a report tells them from those of earlier suites."""
    rows = []
    for cell in plan.all_cells:
        hashes = {stage: cell.identity(stage, card=device.card) for stage in cell.stages}
        rows.append({
            "folder": cell_folder(results, cell).name, "stages": hashes, "role": cell.role, "seed": cell.seed,
            "backbone": cell.backbone_label, "scan": cell.scan_label, "smoke": cell.smoke, "data": cell.data_label,
            "parameters": cell.parameters, "forward_flops": sum(cell.forward_flops.values()),
            "scanned_ratio": cell.scanned_ratio, "tokens": cell.tokens,
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
    if read_table_file(path) != json.loads(json.dumps(table)):
        write_json(path, table)


def _spawn(
    cell: Cell, folder: Path, results: Path, device: Device, watcher: Watcher, stages: Sequence[Stage]
) -> str | None:
    """Run stages in a fresh process; gives the reason of a failure, or None."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "cell": cell.model_dump(mode="json"), "results": str(results.resolve()), "folder": folder.name,
        "stages": list(stages), "device": asdict(device),
    }  # fmt: skip
    reason: str | None = None
    stage: Stage = stages[0]

    def heard(event: dict[str, Any]) -> None:
        nonlocal stage, reason
        stage = event.get("stage", stage)
        reason = event["text"] if event["event"] in ("failed", "stopped") else reason
        watcher.event(cell, event)

    code = run_job("zigma_bench.worker", job, folder / LOG, heard)
    if code == Interrupted.exit_code:
        raise Interrupted(reason or INTERRUPTED)
    if code != 0 and reason is None:
        reason = _reason_of(code, folder)
        with contextlib.suppress(OSError):  # on a full disk the outcome alone tells
            _write_death(cell, folder, device, stage, reason)
    return reason if code != 0 else None


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
