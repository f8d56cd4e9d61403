"""The input and the output of every stage of a cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from zigma_bench.data.cell_images import CellImages, OnProgress, load_cell_images
from zigma_bench.data.reading.planned import check_planned
from zigma_bench.plan import Cell, Stage
from zigma_bench.records.progress import ProgressFile
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import read_record, stage_folder
from zigma_bench.run.due import hashes_read, inputs_of
from zigma_bench.system.device import Device

NETWORK = "network.safetensors"  # the weights without averaging


@dataclass
class StageContext:
    """The cell, its device, and the folders of its results.

    `send` sends an event to the parent process. `stopped` is true once the process was asked to stop. `provenance`:
    facts about the run for every record.
    """

    cell: Cell
    folder: Path
    cache: Path
    device: Device
    send: Callable[[dict[str, Any]], None]
    stopped: Callable[[], bool]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def emit(self, event: dict[str, Any]) -> None:
        """Send an event to the parent process, and write it to the progress file of the cell for other processes."""
        self._progress_file.note(event)
        self.send(event)

    @cached_property
    def _progress_file(self) -> ProgressFile:
        return ProgressFile(self.folder, self.device.name)

    def stage_folder(self, stage: Stage) -> Path:
        """The folder of a stage of this cell."""
        return stage_folder(self.folder, stage, self.identity(stage))

    def identity(self, stage: Stage) -> str:
        """The identity of a stage of this cell on this device."""
        return self.cell.identity(stage, device_model=self.device.model_name)

    def record(self, stage: Stage) -> Record | None:
        """The record of a stage of this cell, or None if the stage is not done."""
        record = read_record(self.stage_folder(stage), self.identity(stage))
        return record if record is not None and record.status == "done" else None

    def inputs(self, stage: Stage) -> dict[str, str]:
        """The sha256 of each file of an earlier stage that a stage reads, by STAGE/FILE."""
        records = {source: self.record(source) for source in inputs_of(self.cell, stage)}
        return hashes_read(self.cell, stage, {source: found for source, found in records.items() if found is not None})

    def progress_of(self, stage: Stage, total: int | None) -> OnProgress:
        """A callback `(done, text)` that reports a stage's progress."""
        base = {"event": "progress", "stage": stage, "total": total}
        return lambda done, text: self.emit({**base, "done": done, "text": text})

    def images(self, stage: Stage) -> CellImages:
        """The images of the cell, loaded for a stage."""
        return recent_images(self.cell, self.device.name, self.progress_of(stage, None))


_recent: list[tuple[str, CellImages]] = []  # the images of the last cell, decoded


def recent_images(cell: Cell, device: str, on_progress: OnProgress) -> CellImages:
    """The images of a cell. This process keeps those of the last cell, because most cells of a suite have the same."""
    text = None if cell.text is None else cell.text.model_dump(mode="json")
    cut = None if cell.tuning is None else cell.tuning.model_dump(mode="json")
    parts = [cell.sample.count, cell.reference.model_dump(mode="json"), bool(cell.quality), cut]
    key = json.dumps([cell.data_text, cell.data_fingerprint, text, parts, device], sort_keys=True)
    if not _recent or _recent[0][0] != key:
        _recent.clear()  # before the next ones are loaded
        _recent.append((key, load_cell_images(cell, device, on_progress)))
    else:
        check_planned(cell)  # files that are decoded at each use may have changed
    return _recent[0][1]


@dataclass(frozen=True)
class StageResult:
    """The output of a stage: its measurements, details for the record, and the files that later stages read."""

    measurements: list[Measurement]
    details: dict[str, Any]
    files: tuple[str, ...] = ()


class StageFailed(Exception):
    """A stage left a failed record; the later ones of the cell can't run."""
