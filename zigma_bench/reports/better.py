"""Whether lower or higher values of a metric are better, and whether a value is better than that of an untrained
network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from zigma_bench.records.record import Record

if TYPE_CHECKING:
    from zigma_bench.reports.table import Statistic, TableRow

Better = Literal["lower", "higher"]
Against = Literal["better", "no better"]

OF_UNIT: dict[str, Better] = {
    "1/s": "higher", "bytes": "lower", "s": "lower", "J": "lower", "FLOP/s": "higher", "B/s": "higher",
}  # fmt: skip
CEILING = "ceiling-"  # limits of the device, which are neither
NO_BETTER = "no better than the untrained network"


def metric_directions(records: Iterable[Record]) -> dict[str, Better]:
    """Whether lower or higher is better, by metric name. A name is missing if the plugin of its metric isn't
    installed."""
    from zigma_bench.plugins.discovery import catalogue

    found: dict[str, Better] = {}
    for record in records:
        if record.stage == "efficiency":
            ours = [m for m in record.measurements if not m.name.startswith(CEILING)]
            found |= {m.name: OF_UNIT[m.unit] for m in ours if m.unit in OF_UNIT}
        elif record.stage == "quality":
            asked = record.cell.get("quality", ())  # same order as the measurements; some of these have longer names
            for metric, measurement in zip(asked, record.measurements, strict=False):
                if metric["name"] in catalogue().metrics:
                    found[measurement.name] = catalogue().metrics.get(metric["name"]).facts.better
    return found


def with_untrained(rows: Sequence[TableRow]) -> tuple[TableRow, ...]:
    """Compare each quality value of the rows with that of the ceiling, the untrained network.

    With several ceilings, a row's is the one whose varied values the row has. Means over seeds are compared. There is
    no comparison if the ceiling has no value, or if no metric of this name is registered, because then the better
    direction is unknown.
    """
    ceilings = [row for row in rows if row.role == "ceiling"]

    def compare(row: TableRow) -> TableRow:
        ceiling = next((one for one in ceilings if one.varied.items() <= row.varied.items()), None)
        if ceiling is None or row.role == "ceiling":
            return row
        return replace(row, metrics=_compare_with_untrained(row, ceiling))

    return tuple(map(compare, rows))


def _compare_with_untrained(row: TableRow, ceiling: TableRow) -> dict[str, Statistic]:
    against = {name: _compare_values(found, ceiling.metrics.get(name)) for name, found in row.metrics.items()}
    return {name: replace(found, against_untrained=against[name]) for name, found in row.metrics.items()}


def _compare_values(found: Statistic, untrained: Statistic | None) -> Against | None:
    if untrained is None or untrained.mean is None or found.mean is None:
        return None
    if found.stage != "quality" or found.better is None:
        return None
    gain = untrained.mean - found.mean if found.better == "lower" else found.mean - untrained.mean
    return "better" if gain > 0 else "no better"


def explain_figure(statistic: Statistic) -> str | None:
    """Why a value is missing or not to be trusted; None if nothing is wrong."""
    reasons = (NO_BETTER if statistic.against_untrained == "no better" else None, statistic.reason)
    return "; ".join(filter(None, reasons)) or None
