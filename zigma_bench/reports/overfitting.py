"""How often the training images were seen, and the generalization gap at the end of training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zigma_bench.records.record import Record

if TYPE_CHECKING:
    from zigma_bench.reports.table import Table, TableRow

EPOCHS, GAP, ERROR = "epochs", "train-minus-val-loss", "train-minus-val-loss-error"
MOST_ROWS = 8  # that the footer names


def training_facts(records: Sequence[Record]) -> dict[str, float]:
    """The means over seeds of the epochs, and of training minus validation loss at the end of training with its
    standard error.

    `records` are those of the training, one for each seed. A value that one of them lacks is left out. Seeds share the
    images, so more seeds don't reduce the standard error.
    """
    found = {EPOCHS: [record.details.get(EPOCHS) for record in records]}
    found |= {name: [_final_value(record, name) for record in records] for name in (GAP, ERROR)}
    numbers = {name: _numbers(values) for name, values in found.items()}
    return {name: statistics.fmean(values) for name, values in numbers.items() if values}


def _numbers(values: Sequence[Any]) -> list[float]:
    """The values if all of them are finite numbers; else none."""
    found = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return found if len(found) == len(values) else []


def _final_value(record: Record, name: str) -> Any:
    """A value at the last point of a training's curve; None without one."""
    points = record.details.get("during")
    last = points[-1] if isinstance(points, list) and points else None
    values = last.get("values") if isinstance(last, dict) else None
    return values.get(name) if isinstance(values, dict) else None


def overfitting_notes(table: Table) -> list[str]:
    """A sentence about the generalization gap of each row; none if it was not measured."""
    rows = [row for row in table.rows if {EPOCHS, GAP, ERROR} <= row.training.keys()]
    shown = [
        f"{_label(row)} {row.training[GAP]:+.4f} ± {row.training[ERROR]:.4f} after {row.training[EPOCHS]:.3g} epochs"
        for row in rows
    ]
    if not shown:
        return []
    more = f"; and {len(shown) - MOST_ROWS} more rows" if len(shown) > MOST_ROWS else ""
    named = "; ".join(shown[:MOST_ROWS]) + more
    return [f"Training minus validation loss at the end, ± its standard error over images: {named}."]


def _label(row: TableRow) -> str:
    return " ".join(name for name in (row.backbone, row.scan_words) if name)
