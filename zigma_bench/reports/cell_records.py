"""Read the records of the cells of a run, for the rows of its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import ComparisonRefused
from zigma_bench.records.record import Measurement, Record, without_outdated
from zigma_bench.records.store import RECORD, read_record, stage_folder
from zigma_bench.records.table_file import TableCell


@dataclass(frozen=True)
class CellRecords:
    """A cell of the table file with its records."""

    facts: TableCell
    records: list[Record]
    broken: str | None = None  # a record that can't be read, with its file
    failed: str | None = None  # why it failed in this process

    @property
    def measurements(self) -> list[Measurement]:
        return [m for record in self.records if record.stage != "train" for m in record.measurements]

    @property
    def efficiency(self) -> set[str]:
        return {m.name for record in self.records if record.stage == "efficiency" for m in record.measurements}

    @property
    def train_flops(self) -> float | None:
        """Three forward passes for each training image; None for a budget of seconds, and without a record."""
        images = next((record.cell.get("train_images") for record in self.records), None)
        return (
            3.0 * self.facts.forward_flops * images if isinstance(images, int) and self.facts.role == "cell" else None
        )

    @property
    def failure(self) -> str | None:
        if self.broken:
            return self.broken
        if self.failed and not self._all_done:  # another cell of the same folder may have failed
            return self.failed
        return next((f"{r.stage}: {r.reason}" for r in self.records if r.status == "failed"), None)

    @property
    def _all_done(self) -> bool:
        return [record.status for record in self.records] == ["done"] * len(self.facts.stages)

    @property
    def status(self) -> str:
        if self.failure is not None:
            return "failed"
        return "done" if len(self.records) == len(self.facts.stages) else "missing"


def read_cell(folder: Path, facts: TableCell, failed: Mapping[str, str]) -> CellRecords:
    """A cell with its records. If a record can't be read, the cell is failed and has no values."""
    reason = failed.get(facts.folder)
    try:
        records = without_outdated({record.stage: record for record in _read_records(folder, facts)})
        return CellRecords(facts, list(records.values()), failed=reason)
    except ComparisonRefused as error:
        return CellRecords(facts, [], broken=str(error), failed=reason)


def _read_records(folder: Path, facts: TableCell) -> Iterator[Record]:
    for stage, identity in facts.stages.items():
        record = read_record(stage_folder(folder / facts.folder, stage, identity), identity)
        if record is not None:
            _check_record(record, stage_folder(folder / facts.folder, stage, identity))
            yield record


def _check_record(record: Record, folder: Path) -> None:
    """ComparisonRefused if a record doesn't contain what a table needs."""
    origin, asked = record.provenance, record.cell.get("quality", [])
    known = record.status == "failed" or all(
        isinstance(origin.get(key), str) for key in ("card", "precision", "backend")
    )
    names = isinstance(asked, list) and all(isinstance(m, dict) and isinstance(m.get("name"), str) for m in asked)
    if (origin and not known) or not names:
        what = "where it was measured" if names else "the metrics of its cell"
        do = "move it away; the stage then runs again"
        raise ComparisonRefused(f"the record does not name {what}", where=str(folder / RECORD), do=do)
