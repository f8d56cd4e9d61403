"""Make tables from records: one row per backbone and scan, with mean and spread over seeds, differences to the
baseline, and the anchors.

All values of a column have the same fingerprint; otherwise the table is refused, with the field that differs. So a
suite on several data sets has one table for each. A table belongs to one run and names the other runs of the suite.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from zigma_bench.errors import ComparisonRefused, UsageError
from zigma_bench.records.record import Measurement
from zigma_bench.records.runs import find_runs, get_run
from zigma_bench.records.table_file import TABLE, SelectedValue, TableCell, TableFile, require_table_file
from zigma_bench.reports.better import Against, Better, metric_directions, with_untrained
from zigma_bench.reports.cell_records import CellRecords, read_cell
from zigma_bench.reports.columns import check_columns, check_smoke
from zigma_bench.reports.compare import Difference, with_differences
from zigma_bench.reports.overfitting import training_facts
from zigma_bench.reports.statistics import standard_deviation, t_interval
from zigma_bench.suite import Statistics, Suite, declared_json

ROLES = ("floor", "reconstruction", "cell", "ceiling")  # from the top of a table
ROW_FACTS = {
    "parameters",
    "forward_flops",
    "flops_by",
    "scanned_ratio",
    "tokens",
    "size_match",
    "setting",
    "varied",
    "selected",
}


@dataclass(frozen=True)
class Statistic:
    """A metric over seeds: `sd` is None for a single seed, `mean` is None if nothing was measured.

    `ci_low` to `ci_high` is the 95% t-interval of the mean, None with fewer than three seeds. `values`: the value of
    each seed. `extractor`: the network whose features were compared, with its size in pixels if that is an option.
    `against_untrained`: whether the mean is better than the untrained network's; None if that is not known.
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
class TableRow:
    """One row of a table. `status` is done, failed or missing; `reason` says why it is not done.

    `baseline` marks the row that the `differences` of the other rows, by metric, are taken to. `training`: the epochs,
    and the generalization gap if it was measured. `train_flops`: the training FLOPs of a cell, by formula, or None if
    it isn't trained or has no record.
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
    training: dict[str, float] = field(default_factory=dict)
    train_flops: float | None = None

    @property
    def setting(self) -> dict[str, Any]:
        """The backend, tokens and batch that a row of an efficiency suite is timed with; empty for other suites."""
        return self.facts.get("setting") or {}

    @property
    def varied(self) -> dict[str, str]:
        """The words of the row's values of varied keys, such as learning_rate=0.001, by key."""
        return self.facts.get("varied") or {}

    @property
    def scan_words(self) -> str:
        """The scan with the row's varied values."""
        return ", ".join(filter(None, (self.scan, *self.varied.values())))


@dataclass(frozen=True)
class Table:
    """The table of one run of a suite on one data set, with what its footer says. `data` names one of several.

    `options`: what distinguishes the run from the plain suite. `other_runs`: the names of the suite's other runs.
    `baseline`: the backbone and the scan of the baseline's row. `seeds`: those of the suite, in its order. `declared`:
    the tests that the suite declares (see `reports.study`).
    """

    suite: str
    run: str
    options: tuple[str, ...]
    other_runs: tuple[str, ...]
    question: str
    folder: str
    smoke: bool
    reference: str
    sample_count: int
    budget: dict[str, Any]
    residual: tuple[str, ...]
    machines: tuple[str, ...]
    rows: tuple[TableRow, ...]
    data: str | None = None
    selected: tuple[SelectedValue, ...] = ()  # how the value of a varied key was chosen for each row
    waiting: dict[str, str] = field(default_factory=dict)  # rows without a chosen value, and why
    broken: tuple[str, ...] = ()  # files that can't be read, each with the reason
    baseline: tuple[str | None, str | None] = (None, None)
    seeds: tuple[int, ...] = ()
    declared: Statistics | None = None

    @property
    def timed_alone(self) -> bool:
        """Whether this is the table of an efficiency suite."""
        return any(row.setting for row in self.rows)

    @property
    def baseline_row(self) -> TableRow | None:
        """The row that differences are taken to; None if the run's cells don't include it."""
        return next((row for row in self.rows if row.baseline), None)

    @property
    def metric_names(self) -> list[str]:
        """The columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))


def find_tables(paths: Iterable[Path], name: str | None = None, tests_of: Suite | None = None) -> list[Table]:
    """The tables of some folders. A folder can be a run. For a suite or a folder of suites, it is the run called
    `name`, by default the latest run of each suite.

    `tests_of`: a suite whose declared tests are made instead of those that its runs have stored.

    UsageError for a folder without results, if no suite there has a run of this name, and if no run is of `tests_of`.
    """
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise UsageError("there is no such results folder", where=str(path), do="run a suite first")
        folders += find_run_folders(path, name)
    tables = [table for folder in dict.fromkeys(folders) for table in read_tables(folder, tests_of=tests_of)]
    if tests_of is not None and not any(table.suite == tests_of.name for table in tables):
        suites = ", ".join(dict.fromkeys(table.suite for table in tables))
        raise UsageError(
            "no run here is of this suite", where="--tests", expected=f"one of {suites}", got=tests_of.name
        )
    return tables


def find_run_folder(path: Path, name: str | None = None) -> Path:
    """The folder of one run: `path` itself, or the run called `name` (by default the latest) of the suite in `path`.

    UsageError for a folder without results, or with the results of several suites.
    """
    if not path.is_dir():
        raise UsageError("there is no such results folder", where=str(path), do="run a suite first")
    found = find_run_folders(path, name)
    if len(found) > 1:
        suites = ", ".join(sorted(folder.parent.name for folder in found))
        raise UsageError("the results of several suites are here", where=str(path), expected=f"one of {suites}")
    return found[0]


def find_run_folders(path: Path, name: str | None = None) -> list[Path]:
    """The folders of the runs that a folder of results names: as in `find_tables`."""
    if (path / TABLE).exists():
        if name is not None:
            do = "omit --name, or name the folder of the suite"
            raise UsageError("this folder is already a single run", where=str(path), got=name, do=do)
        return [path]
    suites = [path] if any(path.glob(f"*/{TABLE}")) else sorted({p.parents[1] for p in path.glob(f"*/*/{TABLE}")})
    if not suites:
        raise UsageError("there are no results of a suite here", where=str(path), do="run a suite first")
    if name is None:
        return [_latest_folder(suite) for suite in suites]
    having = [suite for suite in suites if len(suites) == 1 or (suite / name / TABLE).is_file()]
    if not having:
        raise UsageError(
            "no suite has a run of this name", where=str(path), got=name, do="look for the names of its subfolders"
        )
    return [get_run(find_runs(suite)[0], name, suite).folder for suite in having]


def _latest_folder(suite: Path) -> Path:
    """The folder of a suite's latest run. ComparisonRefused if no table file of the suite can be read."""
    runs, broken = find_runs(suite)
    if not runs:
        raise ComparisonRefused(next(iter(broken.values())))
    return runs[-1].folder


def read_tables(folder: Path, failed: Mapping[str, str] | None = None, tests_of: Suite | None = None) -> list[Table]:
    """The tables of the run in `folder`, one for each data set.

    `failed`: the reasons of cells that failed in this process, by folder. On a full disk, these cells have no record.
    """
    names = dict.fromkeys(cell.data for cell in require_table_file(folder).cells)
    return [read_table(folder, data=name, failed=failed, tests_of=tests_of) for name in names]


def read_table(
    folder: Path,
    *,
    data: str | None = None,
    failed: Mapping[str, str] | None = None,
    tests_of: Suite | None = None,
) -> Table:
    """The table of one data set; `data` is None if the suite has only one. A record that can't be read fails its
    row."""
    stored = require_table_file(folder)
    if tests_of is not None and tests_of.name == stored.suite:
        stored = stored.model_copy(update={"statistics": declared_json(tests_of)})
    cells = [read_cell(folder, cell, failed or {}) for cell in stored.cells if cell.data == data and not cell.tunes]
    check_smoke((cell.facts.smoke for cell in cells), folder / TABLE)
    check_columns((m for cell in cells for m in cell.measurements), folder / TABLE)
    others, unreadable = _other_runs(folder, stored)
    return Table(
        suite=stored.suite,
        run=stored.run,
        options=tuple(stored.options),
        other_runs=others,
        question=stored.question,
        folder=str(folder),
        smoke=stored.smoke,
        reference=stored.reference,
        sample_count=stored.sample_count,
        budget=dict(stored.budget),
        residual=tuple(stored.residual),
        machines=_machines(cells),
        rows=_rows(cells, stored),
        data=data,
        selected=tuple(choice for choice in stored.selected if data is None or choice.row.startswith(f"{data} ")),
        waiting=_waiting_rows(folder, stored, data),
        broken=(*unreadable, *(cell.broken for cell in cells if cell.broken is not None)),
        baseline=(stored.baseline.backbone, stored.baseline.scan),
        seeds=_seeds(stored, folder),
        declared=_declared(stored, folder),
    )


def _seeds(stored: TableFile, folder: Path) -> tuple[int, ...]:
    """The seeds of the suite of a run, in its order."""
    seeds = stored.content.get("seeds", [0])
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        what, do = "the seeds of the suite can't be read", "run the suite again"
        raise ComparisonRefused(what, where=f"{folder / TABLE}, key content.seeds", got=seeds, do=do)
    return tuple(seeds)


def _declared(stored: TableFile, folder: Path) -> Statistics | None:
    """The tests that the suite of a run declares."""
    if stored.statistics is None:
        return None
    try:
        return Statistics.model_validate_json(json.dumps(stored.statistics))
    except pydantic.ValidationError as error:
        what = f"the declared tests can't be read ({error.errors(include_url=False)[0]['msg']})"
        do = "run the suite again, which writes them"
        raise ComparisonRefused(what, where=f"{folder / TABLE}, key statistics", do=do) from None


def _waiting_rows(folder: Path, stored: TableFile, data: str | None) -> dict[str, str]:
    """The rows whose value is not chosen yet, each with its number of cells, and the first failure of a tuning cell."""
    found = {}
    for row, count in stored.waiting.items():
        if data is not None and not row.startswith(f"{data} "):
            continue
        tuning = [cell for cell in stored.cells if cell.tunes and _tuned_row(cell, stored) == row]
        failures = [failure for cell in tuning if (failure := read_cell(folder, cell, {}).failure) is not None]
        reason = f"; {len(failures)} of {len(tuning)} tuning cells failed: {failures[0]}" if failures else ""
        found[row] = f"{count} cells wait for the choice of a value{reason}"
    return found


def _tuned_row(cell: TableCell, stored: TableFile) -> str:
    """The label of the row that a cell tunes, without the value that it tries."""
    over = stored.content.get("select", {}).get("over")
    varied = [words for key, words in cell.varied.items() if key != over]
    return " · ".join(filter(None, (cell.data, cell.backbone, cell.scan, *varied)))


def _other_runs(folder: Path, stored: TableFile) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the suite's other runs, the latest first, and the reasons of those that can't be read."""
    runs, broken = find_runs(folder.parent)
    names = [run.name for run in reversed(runs) if run.folder != folder and run.table.suite == stored.suite]
    return tuple(names), tuple(reason for place, reason in broken.items() if place != folder)


def _rows(cells: Sequence[CellRecords], stored: TableFile) -> tuple[TableRow, ...]:
    """The rows, compared with the baseline and with the untrained network."""
    better = metric_directions(record for cell in cells for record in cell.records)
    rows = with_untrained([_row(group, better) for group in _group_by_row(cells)])
    baseline = stored.baseline.backbone, stored.baseline.scan
    is_declared = stored.statistics is not None
    return with_differences(rows, baseline, budget=tuple(stored.budget), smoke=stored.smoke, declared=is_declared)


def _machines(cells: Sequence[CellRecords]) -> tuple[str, ...]:
    """The devices, precisions and backends with which the cells were measured."""
    found = set()
    for cell in cells:
        done = [record for record in cell.records if record.status == "done" and cell.facts.role == "cell"]
        for origin in (record.provenance for record in done if record.provenance):
            backend = (
                f", backend {origin['backend']}" if cell.facts.setting is None else ""
            )  # otherwise each row has its own
            found.add(f"{origin['card']}, {origin['precision']}{backend}")
    return tuple(sorted(found))


def _group_by_row(cells: Sequence[CellRecords]) -> list[list[CellRecords]]:
    """The cells in groups that differ only in the seed, floor first and ceiling last."""
    grouped: dict[tuple[str, str | None, str | None, str], list[CellRecords]] = {}
    for cell in cells:
        row = str((cell.facts.setting, cell.facts.varied))
        key = (cell.facts.role, cell.facts.backbone, cell.facts.scan, row)
        grouped.setdefault(key, []).append(cell)
    return [grouped[key] for key in sorted(grouped, key=lambda key: ROLES.index(key[0]))]


def _row(group: list[CellRecords], better: dict[str, Better]) -> TableRow:
    facts = group[0].facts
    done = [cell for cell in group if cell.status == "done"]
    worst = next((cell for cell in group if cell.status == "failed"), None)
    status = "failed" if worst else "done" if len(done) == len(group) else "missing"
    reason = worst.failure if worst else None
    if status == "missing":
        reason = f"{len(group) - len(done)} of {len(group)} seeds are not done; run the suite again"
    return TableRow(
        role=facts.role,
        backbone=facts.backbone,
        scan=facts.scan,
        seed_count=len(done),
        status=status,
        smoke=facts.smoke,
        reason=reason,
        metrics=_statistics(done, better),
        train_flops=next((cell.train_flops for cell in done if cell.train_flops is not None), None),
        facts=facts.model_dump(include=ROW_FACTS),
        training=training_facts([record for cell in done for record in cell.records if record.stage == "train"]),
    )


def _statistics(cells: list[CellRecords], better: dict[str, Better]) -> dict[str, Statistic]:
    """Every metric over the seeds that have it."""
    by_name: dict[str, list[tuple[int, Measurement]]] = {}
    for cell in cells:
        for measurement in cell.measurements:
            by_name.setdefault(measurement.name, []).append((cell.facts.seed, measurement))
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
        sd=standard_deviation(found),
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
