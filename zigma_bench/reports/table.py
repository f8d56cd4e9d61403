"""Records to rows: one row a backbone and scan, mean and spread over seeds, differences to the baseline, two anchors.

A column holds figures of one fingerprint; unlike ones are refused, with the field that differs. So a suite on several
data sets has a table for each.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused, UsageError
from zigma_bench.records.record import Measurement, Record, without_outdated
from zigma_bench.records.store import RECORD, TABLE, read_record, stage_folder
from zigma_bench.records.table_file import read_stored
from zigma_bench.reports.better import Against, Better, directions, with_untrained
from zigma_bench.reports.columns import check_columns, check_smoke
from zigma_bench.reports.compare import Difference, with_differences
from zigma_bench.reports.statistics import deviation, t_interval

ROLES = ("floor", "reconstruction", "cell", "ceiling")  # from the top of a table


@dataclass(frozen=True)
class Statistic:
    """A figure over seeds: `sd` is None for a single seed, `mean` is None where nothing was measured.

    `ci_low` to `ci_high` is the 95% t-interval of the mean, None below three seeds. `values` holds what each seed gave.
    `extractor`: the network whose features were compared, with its size in pixels where that is an option.
    `against_untrained`: whether the mean is better than the untrained network's; None where that is not known.
    """

    mean: float | None
    sd: float | None
    n: int
    unit: str
    reason: str | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    better: Better | None = None
    stage: str = "quality"
    values: dict[int, float] = field(default_factory=dict)
    extractor: str | None = None
    against_untrained: Against | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table. `status` is done, failed or missing; `reason` says why it is not done.

    `baseline` marks the row that the others' `differences`, by metric, are taken to.
    """

    role: str
    backbone: str | None
    scan: str | None
    seed_count: int
    status: str
    smoke: bool
    reason: str | None
    metrics: dict[str, Statistic]
    facts: dict[str, Any] = field(default_factory=dict)
    baseline: bool = False
    differences: dict[str, Difference] = field(default_factory=dict)

    @property
    def setting(self) -> dict[str, Any]:
        """The backend, tokens and batch that a row of an efficiency suite is timed with; nothing in another."""
        return self.facts.get("setting") or {}


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
    broken: tuple[str, ...] = ()  # records that can't be read, each with its file and reason

    @property
    def timed_alone(self) -> bool:
        """Whether it is that of an efficiency suite."""
        return any(row.setting for row in self.rows)

    @property
    def baseline_row(self) -> Row | None:
        """The row that differences are taken to; None where an old table does not name it."""
        return next((row for row in self.rows if row.baseline), None)

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


def read_tables(folder: Path, failed: Mapping[str, str] | None = None) -> list[Table]:
    """The tables of the suite whose results lie in `folder`, from its last run, one a data set.

    `failed`: the reasons of cells that failed in this run, by their folders, which a full disk may have no record of.
    """
    names = dict.fromkeys(_data_of(entry) for entry in read_stored(folder)["cells"])
    return [read_table(folder, data=name, failed=failed) for name in names]


def read_table(folder: Path, *, data: str | None = None, failed: Mapping[str, str] | None = None) -> Table:
    """The table of one data set; a suite that has one does not name it. A record that can't be read costs its row."""
    stored = read_stored(folder)
    cells = [_entry(folder, entry, failed or {}) for entry in stored["cells"] if _data_of(entry) == data]
    check_smoke((cell.facts["smoke"] for cell in cells), folder / TABLE)
    check_columns((m for cell in cells for m in cell.measurements), folder / TABLE)
    better = directions(record for cell in cells for record in cell.records)
    rows = with_differences(
        with_untrained([_row(group, better) for group in _groups(cells)]),
        _baseline(stored),
        budget=tuple(stored["budget"]),
        smoke=stored["smoke"],
    )
    keys = ("suite", "question", "smoke", "reference", "sample_count", "budget")
    facts = {key: stored[key] for key in keys}
    residual = tuple(stored["residual"])
    broken = tuple(cell.broken for cell in cells if cell.broken is not None)
    machines = _machines(cells)
    return Table(folder=str(folder), rows=rows, residual=residual, machines=machines, data=data, broken=broken, **facts)


def _data_of(entry: dict[str, Any]) -> str | None:
    """The data set of a cell as the table's file names it; files of before this key have one data set."""
    name: str | None = entry.get("data")
    return name


def _baseline(data: dict[str, Any]) -> tuple[str | None, str | None] | None:
    """The backbone and scan of the baseline's row; tables of before this key name it in their ceiling."""
    if (named := data.get("baseline")) is not None:
        return named["backbone"], named["scan"]
    ceiling = next((cell for cell in data["cells"] if cell["role"] == "ceiling"), None)
    return None if ceiling is None else ((ceiling["backbone"] or "").removeprefix("untrained "), ceiling["scan"])


def _machines(cells: list[_Entry]) -> tuple[str, ...]:
    """The cards, precisions and backends that the cells' figures were measured with."""
    found = set()
    for cell in cells:
        done = [record for record in cell.records if record.status == "done" and cell.facts["role"] == "cell"]
        for origin in (record.provenance for record in done if record.provenance):
            backend = (
                "" if cell.facts.get("setting") else f", backend {origin['backend']}"
            )  # else each row says its own
            found.add(f"{origin['card']}, {origin['precision']}{backend}")
    return tuple(sorted(found))


@dataclass(frozen=True)
class _Entry:
    """A cell as the table's file names it, with the records that it has."""

    facts: dict[str, Any]
    records: list[Record]
    broken: str | None = None  # a record that can't be read, with its file
    failed: str | None = None  # in the run that asks

    @property
    def measurements(self) -> list[Measurement]:
        return [m for record in self.records if record.stage != "train" for m in record.measurements]

    @property
    def efficiency(self) -> set[str]:
        return {m.name for record in self.records if record.stage == "efficiency" for m in record.measurements}

    @property
    def failure(self) -> str | None:
        if self.broken or self.failed:
            return self.broken or self.failed
        return next((f"{r.stage}: {r.reason}" for r in self.records if r.status == "failed"), None)

    @property
    def status(self) -> str:
        if self.failure is not None:
            return "failed"
        return "done" if len(self.records) == len(self.facts["stages"]) else "missing"


def _entry(folder: Path, facts: dict[str, Any], failed: Mapping[str, str]) -> _Entry:
    """A cell with its records; one that can't be read is its failure, and it has none of their figures."""
    reason = failed.get(facts["folder"])
    try:
        records = without_outdated({record.stage: record for record in _records(folder, facts)})
        return _Entry(facts, list(records.values()), failed=reason)
    except ComparisonRefused as error:
        return _Entry(facts, [], broken=str(error), failed=reason)


def _records(folder: Path, entry: dict[str, Any]) -> Iterator[Record]:
    for stage, identity in entry["stages"].items():
        record = read_record(stage_folder(folder / entry["folder"], stage, identity), identity)
        if record is not None:
            _check_use(record, stage_folder(folder / entry["folder"], stage, identity))
            yield record


def _check_use(record: Record, folder: Path) -> None:
    """ComparisonRefused for a record that lacks what a table reads of it."""
    origin, asked = record.provenance, record.cell.get("quality", [])
    known = record.status == "failed" or all(
        isinstance(origin.get(key), str) for key in ("card", "precision", "backend")
    )
    names = isinstance(asked, list) and all(isinstance(m, dict) and isinstance(m.get("name"), str) for m in asked)
    if (origin and not known) or not names:
        what = "where it was measured" if names else "the metrics of its cell"
        do = "move it away; the stage is then done again"
        raise ComparisonRefused(f"the record does not name {what}", where=str(folder / RECORD), do=do)


def _groups(cells: list[_Entry]) -> list[list[_Entry]]:
    """Cells that differ in the seed alone, floor first and ceiling last."""
    grouped: dict[tuple[str, str | None, str | None, str], list[_Entry]] = {}
    for cell in cells:
        key = (cell.facts["role"], cell.facts["backbone"], cell.facts["scan"], str(cell.facts.get("setting")))
        grouped.setdefault(key, []).append(cell)
    return [grouped[key] for key in sorted(grouped, key=lambda key: ROLES.index(key[0]))]


def _row(group: list[_Entry], better: dict[str, Better]) -> Row:
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
        metrics=_statistics(done, better),
        facts={
            **{key: facts[key] for key in ("parameters", "forward_flops", "scanned_ratio", "tokens")},
            "flops_by": facts.get("flops_by", "formula"),
            "size_match": facts.get("size_match"),  # tables of before these keys have none
            "setting": facts.get("setting"),
        },
    )


def _statistics(cells: list[_Entry], better: dict[str, Better]) -> dict[str, Statistic]:
    """Every metric over the seeds that have it."""
    by_name: dict[str, list[tuple[int, Measurement]]] = {}
    for cell in cells:
        for measurement in cell.measurements:
            by_name.setdefault(measurement.name, []).append((cell.facts["seed"], measurement))
    speed = {name for cell in cells for name in cell.efficiency}
    return {
        name: _statistic(same, better.get(name), "efficiency" if name in speed else "quality")
        for name, same in by_name.items()
    }


def _statistic(same: list[tuple[int, Measurement]], better: Better | None, stage: str) -> Statistic:
    """Mean, standard deviation and interval of one metric of one row."""
    values = {seed: m.value for seed, m in same if m.value is not None}
    reason = next((m.reason for _, m in same if m.reason is not None), None)
    found = list(values.values())
    interval = t_interval(found)
    return Statistic(
        mean=statistics.fmean(found) if found else None,
        sd=deviation(found),
        n=len(found),
        unit=same[0][1].unit,
        reason=reason,
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        better=better,
        stage=stage,
        values=values,
        extractor=next((m.fingerprint["extractor"] for _, m in same if "extractor" in m.fingerprint), None),
    )
