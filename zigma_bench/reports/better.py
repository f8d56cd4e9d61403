"""Which way each figure is better: as its metric registers it, and by the unit for speed and memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from zigma_bench.record import Record

Better = Literal["lower", "higher"]

OF_UNIT: dict[str, Better] = {
    "1/s": "higher", "bytes": "lower", "s": "lower", "J": "lower", "FLOP/s": "higher", "B/s": "higher",
}  # fmt: skip
CEILING = "ceiling-"  # figures of the device, which are neither


def directions(records: Iterable[Record]) -> dict[str, Better]:
    """By the measured name; a name is absent where the plugin that registers its metric is not there."""
    from zigma_bench.plugins import catalogue

    found: dict[str, Better] = {}
    for record in records:
        if record.stage == "efficiency":
            ours = [m for m in record.measurements if not m.name.startswith(CEILING)]
            found |= {m.name: OF_UNIT[m.unit] for m in ours if m.unit in OF_UNIT}
        elif record.stage == "quality":
            asked = record.cell.get("quality", ())  # in the order of the measurements, some of which have longer names
            for metric, measurement in zip(asked, record.measurements, strict=False):
                if metric["name"] in catalogue().metrics:
                    found[measurement.name] = catalogue().metrics.get(metric["name"]).facts.better
    return found
