"""Choose the value of each row that a suite selects, from the records of its tuning cells."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from zigma_bench.errors import ComparisonRefused
from zigma_bench.plan import Cell, Plan
from zigma_bench.plan.selection import TUNING_LOSS, RowChoice, RowSelection
from zigma_bench.records.store import read_record, stage_folder
from zigma_bench.run.due import cell_folder
from zigma_bench.system.device import Device


def with_choices_made(plan: Plan, run: Path, device: Device, tried: Container[str] = ()) -> Plan:
    """The plan with the cells of every row whose tuning cells in the folder of a run are all done or failed.

    A failure counts if it would come again, such as a loss that is no number, or if this command has just tried the
    cell (`tried`: labels). Any other cell may succeed when it runs again, and change the choice. A row whose tuning
    cells have all failed gets no value: it stays among the plan's selections.
    """
    if not plan.selections:
        return plan
    choices = [choice for one in plan.selections if (choice := _choose(one, run, device, tried)) is not None]
    return plan.with_choices(choices) if choices else plan


def _choose(selection: RowSelection, run: Path, device: Device, tried: Container[str]) -> RowChoice | None:
    """The choice of a row, or None while a tuning cell is neither done nor failed."""
    losses: list[Sequence[float] | None] = []
    for candidate in selection.candidates:
        found = [_tuning_loss(cell, run, device, cell.label in tried) for cell in candidate.tuning]
        if any(isinstance(loss, Untuned) for loss in found):
            return None
        values = [loss for loss in found if isinstance(loss, float)]
        losses.append(values if len(values) == len(found) else None)
    return selection.choose(losses)


class Untuned:
    """A tuning cell that is neither done nor failed."""


def _tuning_loss(cell: Cell, run: Path, device: Device, tried: bool) -> float | Untuned | None:
    """The tuning loss of a cell; None if the cell has failed, also by a loss that is no number."""
    identity = cell.identity("train", device_model=device.model_name)
    try:
        record = read_record(stage_folder(cell_folder(run, cell), "train", identity), identity)
    except ComparisonRefused:  # the stage runs again
        return Untuned()
    if record is None:
        return Untuned()
    if record.status == "failed":
        return None if tried or record.details.get("known") is True else Untuned()
    values = [measured.value for measured in record.measurements if measured.name == TUNING_LOSS]
    return values[0] if values else None
