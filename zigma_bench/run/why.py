"""Why a stage of a cell is due or done, and what changed in its identity since the suite's earlier records.

The identity of a stage is the hash of facts. Those of a record are computed again from the cell in it, and compared
with those of the planned cell, key by key. An option that is left out of the facts has its default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pydantic

from zigma_bench.errors import ComparisonRefused, UnknownName, UsageError, names_near, nearest
from zigma_bench.escaping import shortened
from zigma_bench.plan import Cell, Plan, Stage
from zigma_bench.plan.cells import PROTOCOL, facts_digest
from zigma_bench.records.record import Record, why_outdated
from zigma_bench.records.runs import find_differences
from zigma_bench.records.sealed import state_of
from zigma_bench.records.store import RECORD, read_record, stage_folder
from zigma_bench.run.due import cell_folder, find_done, find_due, inputs_of
from zigma_bench.run.reuse import find_reusable, other_folders
from zigma_bench.run.runs import find_run
from zigma_bench.system.device import Device

MOST_VALUE = 60  # characters of a value
DIGITS = 8
LISTS: Mapping[str, tuple[str, ...]] = {  # the names of the entries of lists in the facts
    "data": ("data", "data fingerprint"),
    "budget": ("budget.images", "budget.seconds"),
    "sample": ("sample.count", "sample.solver", "sample.evaluations"),
    "text": ("text encoder fingerprint", "text.tokens", "text.mask"),
}
EFFICIENCY_LISTS: Mapping[str, tuple[str, ...]] = {
    **LISTS,
    "sample": ("sample.solver", "sample.evaluations"),
    "train": ("train.batch", "train.gradient_clip", "train.flip"),
}


@dataclass(frozen=True)
class FactChange:
    """A key of the facts that differs: its value in the record and the one that is planned now."""

    key: str
    before: str
    now: str


@dataclass(frozen=True)
class NearRecord:
    """The record of a suite whose facts differ least from those of a stage.

    `unexplained`: why its facts can't be compared; then `changes` is empty.
    """

    file: Path
    run: str
    status: str
    changes: tuple[FactChange, ...] = ()
    unexplained: str | None = None


@dataclass(frozen=True)
class StageReason:
    """Why a stage is done, due, or reused at the next command. `near`: the nearest record, unless the stage is done."""

    stage: Stage
    identity: str
    state: Literal["done", "due", "reused"]
    reason: str
    near: NearRecord | None = None


@dataclass(frozen=True)
class CellReasons:
    """The stages of a cell of a run. `unread`: the records of the suite that can't be read, each with the reason."""

    label: str
    run: str
    is_new_run: bool
    folder: Path
    stages: tuple[StageReason, ...]
    unread: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The reasons as a JSON document."""
        found = asdict(self)
        found["folder"] = str(self.folder)
        for stage in found["stages"]:
            if stage["near"] is not None:
                stage["near"]["file"] = str(stage["near"]["file"])
        return found


def choose_cell(plan: Plan, pattern: str) -> Cell:
    """The one cell of a plan whose label is the pattern, or else contains or matches it. UsageError unless there is
    exactly one."""
    wanted, labels = pattern.lower(), [cell.label for cell in plan.cells]
    same = [cell for cell in plan.cells if cell.label.lower() == wanted]
    alike = [cell for cell in plan.cells if wanted in cell.label.lower() or fnmatchcase(cell.label.lower(), wanted)]
    found = same or alike
    if len(found) == 1:
        return found[0]
    what = "several cells match" if found else "no cell matches"
    shown = names_near(pattern, [cell.label for cell in found] or labels)
    guess = None if found else nearest(pattern, labels)
    raise UsageError(what, where="CELL", expected=f"one of {shown}", got=pattern, nearest=guess)


def explain_cell(plan: Plan, cell: Cell, results: Path, device: Device, name: str | None = None) -> CellReasons:
    """Why each stage of a cell is done or due in the run that a plan belongs to.

    UsageError for a run name that isn't allowed. NewerFormat for a record of the cell that only a later version can
    read.
    """
    chosen = find_run(plan, results, name)
    folder = cell_folder(results / plan.suite.name / chosen.name, cell)
    search = _Search(cell, folder, results, device)
    stages = tuple(search.explain(stage) for stage in cell.stages)
    return CellReasons(cell.label, chosen.name, chosen.existing is None, folder, stages, tuple(search.unread))


class _Search:
    """Explains the stages of one cell."""

    def __init__(self, cell: Cell, folder: Path, results: Path, device: Device) -> None:
        self.cell, self.folder, self.results, self.device = cell, folder, results, device
        self.due = find_due(cell, folder, device, cell.stages).stages
        self.done = find_done(cell, folder, device)[0]
        self.reusable = find_reusable(cell, folder, other_folders(results, cell, folder), device, cell.stages)
        self.unread = dict[str, None]()

    def explain(self, stage: Stage) -> StageReason:
        identity = self.cell.identity(stage, device_model=self.device.model_name)
        if stage not in self.due:
            return StageReason(stage, identity, "done", "its record has this identity")
        if stage in self.reusable:
            run = self.reusable[stage][0].parents[1].name
            return StageReason(stage, identity, "reused", f"it is done in the run {run}, and is reused from there")
        reason, is_known = self._explain_due(stage, identity)
        return StageReason(stage, identity, "due", reason, None if is_known else self._find_near(stage, identity))

    def _explain_due(self, stage: Stage, identity: str) -> tuple[str, bool]:
        """Why a stage is due, and whether that has nothing to do with its identity."""
        place = stage_folder(self.folder, stage, identity)
        try:
            record = read_record(place, identity)
        except ComparisonRefused as error:
            return f"its record is broken: {error}", True
        if record is None:
            return "there is no record with its identity", False
        if record.status == "failed":
            return f"it failed: {record.reason}", True
        if (outdated := why_outdated(record, self.done)) is not None:
            return f"it is done, but {outdated}", True
        return f"it is done, but {self._explain_repeat(stage, place, record)}", True

    def _explain_repeat(self, stage: Stage, place: Path, record: Record) -> str:
        """Which files of a done stage a later stage lacks, or which earlier stage runs before it."""
        for later in self.due:
            for name in inputs_of(self.cell, later).get(stage, ()):
                state = state_of(place / name, record.files.get(name, ""))
                if state != "whole":
                    return f"{later} needs its file {name}, which is {state}"
        return "an earlier stage runs again"

    def _find_near(self, stage: Stage, identity: str) -> NearRecord | None:
        """The record of this stage that differs in the fewest keys; one that can't be compared only if no other can."""
        now = self.cell.identity_facts(stage, device_model=self.device.model_name)
        found = [
            self._compare(file, record, now) for file, record in self._records[stage] if record.identity != identity
        ]
        return min(found, key=lambda one: (one.unexplained is not None, len(one.changes), one.file), default=None)

    def _compare(self, file: Path, record: Record, now: Mapping[str, Any]) -> NearRecord:
        run, before = file.parents[2].name, facts_of(record)
        if isinstance(before, str):
            return NearRecord(file, run, record.status, unexplained=before)
        lists = EFFICIENCY_LISTS if record.stage == "efficiency" else LISTS
        return NearRecord(file, run, record.status, tuple(_changes(before, now, lists)))

    @cached_property
    def _records(self) -> dict[Stage, list[tuple[Path, Record]]]:
        """The records of the suite's cells of this role, by stage."""
        found: dict[Stage, list[tuple[Path, Record]]] = {stage: [] for stage in self.cell.stages}
        for stage, records in found.items():
            for file in sorted((self.results / self.cell.suite).glob(f"*/*/{stage}-*/{RECORD}")):
                try:
                    record = read_record(file.parent)
                except ComparisonRefused as error:
                    self.unread[str(error)] = None
                    continue
                if record is not None and record.cell.get("role") == self.cell.role:
                    records.append((file, record))
        return found


def facts_of(record: Record) -> dict[str, Any] | str:
    """The facts that the identity of a record is the hash of, or why they can't be computed from its own cell."""
    stage: Any = record.stage
    try:
        cell = Cell.model_validate_json(json.dumps(record.cell))
        facts = cell.identity_facts(stage, device_model=str(record.provenance.get("card", "")))
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, fault["loc"]))
        return f"another version of zigma-bench wrote it: the key {key} of its cell is not one of this version"
    except UnknownName as error:
        return f"its cell needs a plugin that isn't loaded: {error}"
    for protocol in range(PROTOCOL, 0, -1):
        if facts_digest({**facts, "protocol": protocol}) == record.identity:
            return {**facts, "protocol": protocol}
    return (
        "its identity can't be recomputed from its own cell: another version of zigma-bench or of a plugin wrote it, "
        f"with other defaults or another protocol (now {PROTOCOL})"
    )


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], lists: Mapping[str, Sequence[str]]
) -> Iterator[FactChange]:
    """The keys of two facts that differ; the orders of all layers as one."""
    for key, old, new in find_differences({**before, "orders": None}, {**now, "orders": None}):
        name = _key_name(key, lists)
        yield FactChange(name, _value_text(name, old), _value_text(name, new))
    old, new = before.get("orders") or [], now.get("orders") or []
    if old != new:
        differing = sum(a != b for a, b in zip(old, new, strict=False)) + abs(len(new) - len(old))
        yield FactChange("orders", f"{len(old)} layers", f"{len(new)} layers, {differing} with another order")


def _key_name(key: str, lists: Mapping[str, Sequence[str]]) -> str:
    """The name of a key of the facts as a suite has it: `budget.images` of `budget.0`."""
    head, _, rest = key.partition(".")
    index, _, rest = rest.partition(".")
    names = lists.get(head, ())
    if re.fullmatch(r"\d+", index) and int(index) < len(names):
        return ".".join(part for part in (names[int(index)], rest) if part)
    return key


def _value_text(key: str, value: Any) -> str:
    """A value, shortened. None is the default of an option that is left out, and nothing at all for other facts."""
    if value is None:
        return "the default" if "." in key and not key.startswith("budget.") else "none"
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:DIGITS]}..." if re.fullmatch(r"[0-9a-f]{32,64}", text) else shortened(text, MOST_VALUE)
