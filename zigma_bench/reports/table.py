"""Records to rows: one row a backbone and scan, mean and spread over seeds, and the two anchors.

A column holds figures of one fingerprint; unlike ones are refused, with the field that differs. So a suite on several
data sets has a table for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused, UsageError
from zigma_bench.record import Measurement, Record
from zigma_bench.store import TABLE, read_record, read_table_file, stage_folder


@dataclass(frozen=True)
class Statistic:
    """A figure over seeds: `sd` is None for a single seed, `mean` is None where nothing was measured."""

    mean: float | None
    sd: float | None
    n: int
    unit: str
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table. `status` is done, failed or missing; `reason` says why it is not done."""

    role: str
    backbone: str | None
    scan: str | None
    seed_count: int
    status: str
    smoke: bool
    reason: str | None
    metrics: dict[str, Statistic]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The table of one suite on one data set, with what its footer says. `data` names one of several."""

    suite: str
    question: str
    folder: str
    smoke: bool
    reference: str
    sample_count: int
    budget: dict[str, Any]
    residual: tuple[str, ...]
    machines: tuple[str, ...]
    rows: tuple[Row, ...]
    data: str | None = None

    @property
    def metric_names(self) -> list[str]:
        """The columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))


def find_tables(paths: Iterable[Path]) -> list[Table]:
    """The tables of all suites at or directly under some folders."""
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise UsageError("there is no such results folder", where=str(path), do="run a suite first")
        found = [path] if (path / TABLE).exists() else sorted(p.parent for p in path.glob(f"*/{TABLE}"))
        if not found:
            raise UsageError("no suite has left results here", where=str(path), do="run a suite first")
        folders += found
    return [table for folder in dict.fromkeys(folders) for table in read_tables(folder)]


def read_tables(folder: Path) -> list[Table]:
    """The tables of the suite whose results lie in `folder`, from its last run, one a data set."""
    names = dict.fromkeys(_data_of(entry) for entry in _stored(folder)["cells"])
    return [read_table(folder, data=name) for name in names]


def read_table(folder: Path, *, data: str | None = None) -> Table:
    """The table of one data set; a suite that has one does not name it."""
    stored = _stored(folder)
    cells = [_Entry(entry, list(_records(folder, entry))) for entry in stored["cells"] if _data_of(entry) == data]
    _check_columns(cells, folder / TABLE)
    rows = tuple(_row(group) for group in _groups(cells))
    keys = ("suite", "question", "smoke", "reference", "sample_count", "budget")
    facts = {key: stored[key] for key in keys}
    residual = tuple(stored["residual"])
    return Table(folder=str(folder), rows=rows, residual=residual, machines=_machines(cells), data=data, **facts)


def _stored(folder: Path) -> dict[str, Any]:
    """What the suite's tables stand on."""
    stored = read_table_file(folder / TABLE)
    if stored is None:
        raise UsageError("no suite has left results here", where=str(folder), do="run a suite first")
    return stored


def _data_of(entry: dict[str, Any]) -> str | None:
    """The data set of a cell as the table's file names it; files of before this key have one data set."""
    name: str | None = entry.get("data")
    return name


def _machines(cells: list[_Entry]) -> tuple[str, ...]:
    """The cards, precisions and backends that the cells' records name."""
    origins = [r.provenance for cell in cells if cell.facts["role"] == "cell" for r in cell.records if r.provenance]
    return tuple(sorted({f"{o['card']}, {o['precision']}, backend {o['backend']}" for o in origins}))


@dataclass(frozen=True)
class _Entry:
    """A cell as the table's file names it, with the records that it has."""

    facts: dict[str, Any]
    records: list[Record]

    @property
    def measurements(self) -> list[Measurement]:
        return [m for record in self.records if record.stage != "train" for m in record.measurements]

    @property
    def failure(self) -> str | None:
        return next((f"{r.stage}: {r.reason}" for r in self.records if r.status == "failed"), None)

    @property
    def status(self) -> str:
        if self.failure is not None:
            return "failed"
        return "done" if len(self.records) == len(self.facts["stages"]) else "missing"


def _records(folder: Path, entry: dict[str, Any]) -> Iterator[Record]:
    for stage, identity in entry["stages"].items():
        record = read_record(stage_folder(folder / entry["folder"], stage, identity), identity)
        if record is not None:
            yield record


def _groups(cells: list[_Entry]) -> list[list[_Entry]]:
    """Cells that differ in the seed alone, floor first and ceiling last."""
    grouped: dict[tuple[str, str | None, str | None], list[_Entry]] = {}
    for cell in cells:
        key = (cell.facts["role"], cell.facts["backbone"], cell.facts["scan"])
        grouped.setdefault(key, []).append(cell)
    return [grouped[key] for key in sorted(grouped, key=lambda key: ("floor", "cell", "ceiling").index(key[0]))]


def _row(group: list[_Entry]) -> Row:
    facts = group[0].facts
    done = [cell for cell in group if cell.status == "done"]
    worst = next((cell for cell in group if cell.status == "failed"), None)
    status = "failed" if worst else "done" if len(done) == len(group) else "missing"
    reason = worst.failure if worst else None
    if status == "missing":
        reason = f"{len(group) - len(done)} of {len(group)} seeds are not done; run the suite again"
    return Row(
        role=facts["role"],
        backbone=facts["backbone"],
        scan=facts["scan"],
        seed_count=len(done),
        status=status,
        smoke=facts["smoke"],
        reason=reason,
        metrics=_statistics([m for cell in done for m in cell.measurements]),
        facts={
            **{key: facts[key] for key in ("parameters", "forward_flops", "scanned_ratio", "tokens")},
            "size_match": facts.get("size_match"),  # tables of before this key have none
        },
    )


def _statistics(measurements: list[Measurement]) -> dict[str, Statistic]:
    """Mean and standard deviation of every metric over the seeds that have it."""
    import pandas as pd

    found: dict[str, Statistic] = {}
    for name in dict.fromkeys(m.name for m in measurements):
        same = [m for m in measurements if m.name == name]
        values = pd.Series([m.value for m in same if m.value is not None], dtype="float64")
        reason = next((m.reason for m in same if m.reason is not None), None)
        mean = float(values.mean()) if len(values) else None
        sd = float(values.std(ddof=1)) if len(values) > 1 else None
        found[name] = Statistic(mean, sd, len(values), same[0].unit, reason)
    return found


def _check_columns(cells: list[_Entry], path: Path) -> None:
    """Refuse a table in which two figures of one name were measured unlike, or smoke stands beside real runs."""
    if len({cell.facts["smoke"] for cell in cells}) > 1:
        raise ComparisonRefused("smoke runs stand beside real ones", where=str(path), do="run the suite again")
    first: dict[str, Measurement] = {}
    for cell in cells:
        for measurement in cell.measurements:
            if measurement.value is None:
                continue
            other = first.setdefault(measurement.name, measurement)
            keys = {*other.fingerprint, *measurement.fingerprint}
            unlike = sorted(k for k in keys if other.fingerprint.get(k) != measurement.fingerprint.get(k))
            if unlike:
                field_name = unlike[0]
                raise ComparisonRefused(
                    f"two figures called {measurement.name} differ in {', '.join(unlike)}",
                    where=str(path),
                    expected=f"{field_name} {other.fingerprint.get(field_name)!r} in every row",
                    got=measurement.fingerprint.get(field_name),
                    do="run the suite again, so that all rows are measured alike",
                )
