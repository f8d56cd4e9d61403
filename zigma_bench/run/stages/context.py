"""The input and the output of every stage of a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zigma_bench.data.cell_images import CellImages, OnProgress, load_cell_images
from zigma_bench.plan import Cell, Stage
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import read_record, stage_folder
from zigma_bench.run.due import hashes_read, inputs_of
from zigma_bench.system.device import Device

NETWORK = "network.safetensors"  # the weights without averaging


@dataclass
class StageContext:
    """The cell, its device, and the folders of its results.

    `emit` sends an event to the parent process. `stopped` is true once the process was asked to stop. `provenance`: the
    origin of all records of the command, as the parent process knows it (records/provenance.py).
    """

    cell: Cell
    folder: Path
    cache: Path
    device: Device
    emit: Callable[[dict[str, Any]], None]
    stopped: Callable[[], bool]
    provenance: Mapping[str, Any] = field(default_factory=dict)

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
        return load_cell_images(self.cell, self.device.name, self.progress_of(stage, None))


@dataclass(frozen=True)
class StageResult:
    """The output of a stage: its measurements, details for the record, and the files that later stages read."""

    measurements: list[Measurement]
    details: dict[str, Any]
    files: tuple[str, ...] = ()


class StageFailed(Exception):
    """A stage left a failed record; the later ones of the cell can't run."""
