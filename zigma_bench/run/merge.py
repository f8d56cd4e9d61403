"""Bring the runs of one results folder into another one, without overwriting or losing anything there.

Runs with equal options are the same run: it gets the union of their cells and stages. A name that belongs to other
options gets a hash. The table file of a run is written first and the record of a stage last, as when a suite runs, so a
merge can be stopped at any moment and repeated. Files are hard links on the same disk, else copies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zigma_bench.errors import Busy, ComparisonRefused, NewerFormat, UsageError
from zigma_bench.records.record import STAGES, Record, Stage, why_outdated
from zigma_bench.records.runs import HASH_DIGITS, MOST_DERIVED, ExistingRun, RunOptions, find_runs
from zigma_bench.records.sealed import state_of
from zigma_bench.records.store import (
    CHECKPOINTS,
    PARTS,
    RECORD,
    WRITTEN,
    check_writable,
    clear_stage_leftovers,
    has_writer,
    only_writer,
    owner_of,
    read_record,
    sync_folder,
    write_record,
)
from zigma_bench.records.table_file import TABLE, TableCell, TableFile, write_table_file
from zigma_bench.run.reuse import link_file

STAGE_FOLDER = re.compile(rf"({'|'.join(STAGES)})-[0-9a-f]{{8}}")
CELL_HASH = re.compile(r".*-([0-9a-f]{8})")


@dataclass
class RunMerge:
    """What a merge has done with one run: where it went, and the number of stages that were brought, that were there
    already, and that are not finished in the source."""

    suite: str
    source: str
    target: str
    is_new: bool
    brought: int = 0
    present: int = 0
    unfinished: int = 0
    files: int = 0


@dataclass
class MergeReport:
    """The runs of a merge. `conflicts`: two different records of one stage. `problems`: what couldn't be brought."""

    runs: list[RunMerge] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether everything that the source holds is now in the target."""
        return not self.conflicts and not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return asdict(self)


def merge_results(target: Path, source: Path) -> MergeReport:
    """Bring every run of `source` into `target`. Nothing in `source` changes.

    UsageError for a folder without runs, or for two folders of which one is in the other.
    """
    _check_folders(target, source)
    check_writable(target)
    report = MergeReport()
    for suite in sorted({path.parents[1] for path in source.glob(f"*/*/{TABLE}")}):
        try:
            runs, broken = find_runs(suite)
        except NewerFormat as error:
            report.problems.append(str(error))
            continue
        report.problems += broken.values()
        for run in runs:
            try:
                _merge_run(target, run, report)
            except NewerFormat as error:  # in the target
                report.problems.append(f"{run.folder} is left out: {error}")
    return report


def _check_folders(target: Path, source: Path) -> None:
    a, b = target.resolve(), source.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise UsageError("one of the two results folders is in the other", where=str(source), got=str(target))
    if not any(source.glob(f"*/*/{TABLE}")):
        do = "name a whole results folder, which has SUITE/RUN/table.json"
        raise UsageError("there are no runs in this folder", where=str(source), do=do)
    if (target / TABLE).exists() or any(target.glob(f"*/{TABLE}")):
        raise UsageError("this is the folder of a suite or of a run", where=str(target), do="name the whole results")


# Runs


def _merge_run(target: Path, run: ExistingRun, report: MergeReport) -> None:
    suite = target / run.folder.parent.name
    with only_writer(suite, "the runs of this suite", wait=True):
        if (broken := find_runs(suite)[1].get(suite / run.name)) is not None:
            report.problems.append(f"{broken}; the run {run.name} of {run.folder.parent} gets another name")
        existing = _find_same_run(suite, run.table)
        name = existing.name if existing is not None else _free_name(suite, run)
        table = run.table.model_copy(update={"run": name})
        if existing is not None:
            table = _unite_tables(existing.table, run.table)
        if existing is None or table != existing.table:
            write_table_file(suite / name, table)
    done = RunMerge(suite.name, run.name, name, existing is None)
    report.runs.append(done)
    for cell in sorted(path for path in run.folder.glob("*-*") if _is_cell_folder(path)):
        _CellMerge(cell, _target_folder(suite / name, cell), done, report).merge()


def _find_same_run(suite: Path, table: TableFile) -> ExistingRun | None:
    """The run of a suite with the options and identities of another run; of several, the one of its name, else the
    latest."""
    options = RunOptions(table.content, (), table.smoke)
    same = [
        run for run in find_runs(suite)[0] if options.equals(run.table) and _have_equal_identities(run.table, table)
    ]
    named = [run for run in same if run.name == table.run]
    return next(iter(named or reversed(same)), None)


def _have_equal_identities(one: TableFile, other: TableFile) -> bool:
    """Whether the cells that two runs share have the same stages. Another version of zigma-bench or of a plugin gives
    them other identities. Those of efficiency depend on the device, and count only if the cells have nothing else."""
    cells = {_cell_key(cell): cell for cell in one.cells}
    for cell in other.cells:
        known = cells.get(_cell_key(cell))
        if known is None:
            continue
        lasting: list[Stage] = [stage for stage in cell.stages if stage != "efficiency"]
        stages = lasting or list(cell.stages)
        if any(known.stages.get(stage, cell.stages[stage]) != cell.stages[stage] for stage in stages):
            return False
    return True


def _cell_key(cell: TableCell) -> tuple[str, ...]:
    row = cell.data, cell.backbone, cell.scan, cell.setting, cell.varied, cell.tunes
    return cell.role, str(cell.seed), *map(str, row)


def _free_name(suite: Path, run: ExistingRun) -> str:
    """The name of a new run: its own, or one with a hash of its options and identities if that is taken."""
    names = [run.name]
    facts = [run.table.content, run.table.smoke, sorted(str(sorted(cell.stages.items())) for cell in run.table.cells)]
    digits = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    short = run.name[:MOST_DERIVED].strip("-.")
    names += [f"{short}-{digits[:count]}" for count in range(HASH_DIGITS, 2 * HASH_DIGITS)]
    return next(name for name in names if not _is_taken(suite / name))


def _is_taken(folder: Path) -> bool:
    """Whether a folder has files, other than those of a lock."""
    return folder.exists() and (not folder.is_dir() or any(path.name[0] != "." for path in folder.iterdir()))


def _unite_tables(mine: TableFile, other: TableFile) -> TableFile:
    """The table file of a run with the cells and stages of another one of the same options; its own come first."""
    cells = {_cell_key(cell): cell for cell in mine.cells}
    for cell in other.cells:
        known = cells.get(_cell_key(cell))
        stages = {**cell.stages, **({} if known is None else known.stages)}
        ordered = {stage: stages[stage] for stage in STAGES if stage in stages}
        cells[_cell_key(cell)] = (cell if known is None else known).model_copy(update={"stages": ordered})
    times = {"created": min(mine.created, other.created), "updated": max(mine.updated, other.updated)}
    return mine.model_copy(update={"cells": list(cells.values()), **times})


# Cells and stages


def _is_cell_folder(path: Path) -> bool:
    return CELL_HASH.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _target_folder(run: Path, cell: Path) -> Path:
    """The folder of a cell in the target; a label may have changed, so its hash decides."""
    found = CELL_HASH.fullmatch(cell.name)
    assert found is not None, "the name of a cell's folder ends in a hash"
    return next(iter(sorted(run.glob(f"*-{found[1]}"))), run / cell.name)


@dataclass(frozen=True)
class _CellMerge:
    """Brings the stages of one cell from the folder `source` to the folder `target`."""

    source: Path
    target: Path
    done: RunMerge
    report: MergeReport

    def merge(self) -> None:
        """Bring every finished stage that is missing in the target, in the order of the stages."""
        if has_writer(self.source):
            self.report.problems.append(f"{self.source}: {owner_of(self.source)} works on it; merge again afterwards")
            return
        found = list(self._finished_stages())
        if not any(self._is_wanted(place, record) for place, record in found):
            for place, record in found:
                self._count_present(place, record)
            return
        try:
            with only_writer(self.target):
                for place, record in found:
                    self._merge_stage(place, record)
        except Busy as error:
            self.report.problems.append(f"{self.source} is left out: {error}; merge again afterwards")

    def _finished_stages(self) -> Iterator[tuple[Path, Record]]:
        """The stages of the source that are done or failed, with their records."""
        places = [path for path in self.source.iterdir() if STAGE_FOLDER.fullmatch(path.name) and path.is_dir()]
        for place in sorted(places, key=lambda path: (STAGES.index(_stage_of(path)), path.name)):
            try:
                record = read_record(place)
            except ComparisonRefused as error:
                self.report.problems.append(str(error))
                continue
            if record is None:
                self.done.unfinished += 1
            else:
                yield place, record

    def _record_there(self, place: Path) -> Record | None:
        """The record of the same stage in the target. ComparisonRefused if it can't be read."""
        return read_record(self.target / place.name)

    def _is_wanted(self, place: Path, record: Record) -> bool:
        """Whether a stage changes something in the target."""
        try:
            there = self._record_there(place)
        except ComparisonRefused:
            return False
        if there is None or there.identity != record.identity:
            return True
        if record.status == "failed":
            return False
        return there.status == "failed" or (_is_same(there, record) and bool(self._missing_files(place)))

    def _count_present(self, place: Path, record: Record) -> None:
        """Count a stage that the target has, and report one that it has otherwise."""
        try:
            there = self._record_there(place)
        except ComparisonRefused as error:
            self.report.problems.append(f"{place} is left out: {error}")
            return
        assert there is not None, "a stage without a record in the target is wanted"
        self.done.present += 1
        if there.status == record.status == "done" and not _is_same(there, record):
            self.report.conflicts.append(_describe_conflict(self.target / place.name, place, there, record))

    def _merge_stage(self, place: Path, record: Record) -> None:
        """Bring one stage. The lock of the target is held."""
        if not self._is_wanted(place, record):
            self._count_present(place, record)
            return
        there = self._record_there(place)
        if there is not None and there.identity != record.identity:
            taken = f"{self.target / place.name} has a record of another identity"
            self.report.problems.append(f"{place} is left out: {taken}")
            return
        if (outdated := why_outdated(record, self._records_there())) is not None:
            self.report.conflicts.append(f"{place} is left out: {outdated} in {self.target}")
            return
        is_new = there is None or there.status == "failed"
        self._link_files(place, record, whole=is_new)
        if is_new:
            write_record(self.target / place.name, record)
            clear_stage_leftovers(self.target / place.name)
            self.done.brought += 1
        else:
            self.done.present += 1

    def _records_there(self) -> dict[str, Record]:
        """The successful records of the cell in the target, by stage, that this source's stages may have read."""
        found: dict[str, Record] = {}
        for place, record in self._finished_stages_quietly():
            there = self._record_there(place)
            if there is not None and there.status == "done" and there.identity == record.identity:
                found[there.stage] = there
        return found

    def _finished_stages_quietly(self) -> Iterator[tuple[Path, Record]]:
        quiet = _CellMerge(self.source, self.target, RunMerge("", "", "", False), MergeReport())
        yield from quiet._finished_stages()

    def _missing_files(self, place: Path) -> list[Path]:
        """The files of a stage that the target doesn't have."""
        return [file for file in _files_of(place) if not (self.target / place.name / file.name).exists()]

    def _link_files(self, place: Path, record: Record, *, whole: bool) -> None:
        """Link the files of a stage, all of them or only missing ones. One that differs from its hash is left out."""
        target = self.target / place.name
        target.mkdir(parents=True, exist_ok=True)
        for file in _files_of(place) if whole else self._missing_files(place):
            link_file(file, target / file.name)
            if file.name in record.files and state_of(target / file.name, record.files[file.name]) != "whole":
                (target / file.name).unlink()
                self.report.problems.append(f"{file}: the file is altered, and is left out")
                continue
            self.done.files += 1
        sync_folder(target)


def _stage_of(place: Path) -> Any:
    return place.name.partition("-")[0]


def _files_of(place: Path) -> Sequence[Path]:
    """The files of a finished stage, except its record."""
    unfinished = {path.name for pattern in (CHECKPOINTS, PARTS, WRITTEN) for path in place.glob(pattern)}
    names = {*unfinished, RECORD}
    return [
        file for file in sorted(place.iterdir())
        if file.is_file() and not file.is_symlink() and file.name not in names and file.name[0] != "."
    ]  # fmt: skip


def _is_same(one: Record, other: Record) -> bool:
    """Whether two successful records of an identity have the same figures, files and inputs."""
    return (one.measurements, one.files, one.inputs) == (other.measurements, other.files, other.inputs)


def _describe_conflict(there: Path, place: Path, mine: Record, other: Record) -> str:
    """Two different records of one stage, with the first figure that differs."""
    pairs = zip(mine.measurements, other.measurements, strict=False)
    figure = next((f"{a.name} {a.value} and {b.value}" for a, b in pairs if a.value != b.value), "other files")
    return f"two different records of one stage ({figure}): {there / RECORD} stays, {place / RECORD} is left out"
