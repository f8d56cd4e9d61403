"""The time that trainings and samplings have taken on a device, per FLOP, from their records.

It is a coarser source than timed calls, because networks of the same operators count alike, whatever their width. But
it needs no measurement of efficiency: the records of any finished suite have it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.plan import Cell
from zigma_bench.records.record import Record
from zigma_bench.run.timed import collect_from_records, network_of

LEAST_FACTOR = 1.25  # by which an estimate from FLOPs is uncertain, even if all records agree


@dataclass(frozen=True)
class SpentTime:
    """Seconds per FLOP: the median of some records, their number, and the factor to the one that is furthest away."""

    seconds: float
    records: int
    factor: float


@dataclass(frozen=True)
class _Spent:
    """The seconds per FLOP of one record, and what a cell must share with it."""

    key: tuple[Any, ...]
    seconds: float


class SpentTimes:
    """The times of trainings and samplings on one device, read when they are first needed."""

    def __init__(self, results: Path, card: str) -> None:
        self.results, self.card = results, card
        self._found: dict[str, list[_Spent]] = {}

    def of_training(self, cell: Cell, precision: str) -> SpentTime | None:
        """The time of a training FLOP; None without a record of the same operators, precision and launches."""
        return self._median("train", _training, _key(cell.model_dump(mode="json"), "train", precision))

    def of_sampling(self, cell: Cell, precision: str) -> SpentTime | None:
        """The time of a sampling FLOP, as `of_training`."""
        return self._median("sample", _sampling, _key(cell.model_dump(mode="json"), "sample", precision))

    def _median(
        self, stage: Any, collect: Callable[[Record], Iterator[_Spent]], key: tuple[Any, ...]
    ) -> SpentTime | None:
        if stage not in self._found:
            self._found[stage] = collect_from_records(self.results, stage, self.card, collect)
        values = [one.seconds for one in self._found[stage] if one.key == key]
        if not values:
            return None
        middle = statistics.median(values)
        return SpentTime(middle, len(values), max(LEAST_FACTOR, max(values) / middle, middle / min(values)))


def _key(cell: Mapping[str, Any], section: str, precision: str) -> tuple[Any, ...]:
    """What decides the time of a FLOP, up to the size of the network."""
    return network_of(cell), precision, cell[section]["graph"], cell[section]["compile"]


def _training(record: Record) -> Iterator[_Spent]:
    """The training of a record: three forward passes per image."""
    cell, details = record.cell, record.details
    flops = 3 * sum(cell["forward_flops"].values()) * details["images"]
    if flops:
        yield _Spent(_key(cell, "train", record.provenance["precision"]), details["seconds"] / flops)


def _sampling(record: Record) -> Iterator[_Spent]:
    """The sampling of a record from a network, including the time to build it."""
    cell, passes = record.cell, record.details["evaluations"] * (1 if record.cell["sample"]["guidance"] is None else 2)
    flops = sum(cell["forward_flops"].values()) * record.details["count"] * passes
    if flops:
        yield _Spent(_key(cell, "sample", record.provenance["precision"]), record.provenance["seconds"] / flops)
