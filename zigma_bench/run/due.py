"""Find the stages of a cell that must run, and the files that a stage reads from earlier stages.

A stage is done if there is a successful record with its identity, made from the current files of the earlier stages.
It stays done while those files are missing, so nothing runs in a clone that only contains records. If a stage is due,
the files that it reads are compared with their hashes. A stage that wrote a missing or altered file is due again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import BrokenPack, ComparisonRefused, NewerFormat
from zigma_bench.plan import Cell, Stage
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Record, why_outdated, without_outdated
from zigma_bench.records.sealed import State, altered_notice, state_of
from zigma_bench.records.store import EMA, RECORD, SAMPLES, cell_folders, read_record, stage_folder
from zigma_bench.system.device import Device
from zigma_bench.system.notices import report_notice


@dataclass(frozen=True)
class DueStages:
    """The stages to run, in order, and a sentence about each altered file."""

    stages: tuple[Stage, ...]
    altered: tuple[str, ...] = ()


def cell_folder(run: Path, cell: Cell) -> Path:
    """The folder of a cell in the folder of a run: its label as a file name, and the hash of what it trains."""
    digits = _cell_hash(cell)
    earlier = cell_folders(run, digits)  # the folder name has the label from when the suite had other rows
    return earlier[0] if earlier else run / f"{cell.slug}-{digits}"


def all_cell_folders(results: Path, cell: Cell) -> list[Path]:
    """The folders of a cell in all runs of its suite. A run whose packed records can't be read is named and ignored."""
    found = list[Path]()
    for run in sorted((results / cell.suite).glob("*")):
        try:
            found += cell_folders(run, _cell_hash(cell))
        except (NewerFormat, BrokenPack) as error:
            report_notice(str(error))
    return found


def _cell_hash(cell: Cell) -> str:
    base: Stage = "train" if cell.role == "cell" else "sample"
    return cell.identity(base, device_model="")[:8]


def find_due(cell: Cell, folder: Path, device: Device, wanted: Iterable[Stage]) -> DueStages:
    """The stages among `wanted` that are not done, and earlier stages that must write their files again.

    Raises NewerFormat for a record that only a later version can read, and BrokenPack for damaged packed records.
    """
    return _DueSearch(cell, folder, device).find(set(wanted))


def find_done(cell: Cell, folder: Path, device: Device) -> tuple[dict[str, Record], tuple[str, ...]]:
    """The records of the stages that are done in the folder of a cell, even if their files are missing, and a sentence
    about each broken record.

    Raises NewerFormat for a record that only a later version can read, and BrokenPack for damaged packed records.
    """
    search = _DueSearch(cell, folder, device)
    return without_outdated(search.records), tuple(search.notes)


def inputs_of(cell: Cell, stage: Stage) -> dict[Stage, tuple[str, ...]]:
    """The files of earlier stages that a stage of a cell reads, by stage."""
    weights: dict[Stage, tuple[str, ...]] = {"train": (EMA,)} if cell.role == "cell" else {}
    if stage == "sample":
        return weights
    if stage == "quality":
        return {"sample": (SAMPLES,), **(weights if reads_network(cell) else {})}
    return {}


def reads_network(cell: Cell) -> bool:
    """Whether a metric of the cell needs its network."""
    return cell.backbone is not None and any(
        catalogue().get("metric", metric.name).facts.needs == "network" for metric in cell.quality
    )


def hashes_read(cell: Cell, stage: Stage, records: Mapping[Stage, Record]) -> dict[str, str]:
    """The sha256 of each file that a stage reads, from the records of the earlier stages, by STAGE/FILE."""
    return {
        f"{source}/{name}": records[source].files[name]
        for source, names in inputs_of(cell, stage).items()
        for name in names
        if source in records and name in records[source].files
    }


class _DueSearch:
    """Reads a cell's records once, and checks the files that due stages read."""

    def __init__(self, cell: Cell, folder: Path, device: Device) -> None:
        self.cell, self.notes = cell, dict[str, None]()
        self.folders = {
            stage: stage_folder(folder, stage, cell.identity(stage, device_model=device.model_name))
            for stage in cell.stages
        }
        self.records = dict(self._records(device))

    def find(self, wanted: set[Stage]) -> DueStages:
        due = {stage for stage in self.cell.stages if stage in wanted and not self._done(stage)}
        for stage in reversed(self.cell.stages):  # a stage that must run again may need an earlier one
            if stage in due:
                due |= set(self._stages_to_repeat(stage))
        return DueStages(tuple(stage for stage in self.cell.stages if stage in due), tuple(self.notes))

    def _records(self, device: Device) -> Iterator[tuple[str, Record]]:
        """The successful records. A broken record is reported and counts as missing."""
        for stage, folder in self.folders.items():
            try:
                record = read_record(folder, self.cell.identity(stage, device_model=device.model_name))
            except (NewerFormat, BrokenPack):
                raise
            except ComparisonRefused:
                self.notes[f"{folder / RECORD}: the record is broken; its stage runs again"] = None
                continue
            if record is not None and record.status == "done":
                yield stage, record

    def _done(self, stage: Stage) -> bool:
        return stage in self.records and why_outdated(self.records[stage], self.records) is None

    def _stages_to_repeat(self, stage: Stage) -> Iterator[Stage]:
        """The done stages that have lost or altered a file which `stage` reads."""
        for source, names in inputs_of(self.cell, stage).items():
            states = [self._file_state(source, name) for name in names] if source in self.records else []
            if any(state != "whole" for state in states):
                yield source

    def _file_state(self, source: Stage, name: str) -> State:
        path = self.folders[source] / name
        found = state_of(path, self.records[source].files.get(name, ""))
        if found == "altered":
            self.notes[altered_notice(path)] = None
        return found
