"""The difference that the seeds of a plan can detect, before anything is trained.

It is exact for normal paired differences in the first step of Holm's procedure over the family: the hardest step, in
which a single real difference must be found. In standard deviations of the paired difference it depends on the plan
alone. In the unit of a metric it also needs that standard deviation, which comes from the records of the same suite,
pooled over the contrasts.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import ComparisonRefused, UsageError
from zigma_bench.plan import Plan
from zigma_bench.plan.statistics import RowContrast, baseline_family, resolve_family, resolve_rows, row_label
from zigma_bench.records.runs import find_runs
from zigma_bench.reports import differences
from zigma_bench.reports.contrasts import mean_by_seed
from zigma_bench.reports.figures import format_shift
from zigma_bench.reports.statistics import LEAST_SEEDS, LEVEL, detectable_difference, standard_deviation
from zigma_bench.reports.table import Table, TableRow, read_tables
from zigma_bench.suite import Statistics

POWER = 0.8  # if a suite declares none


@dataclass(frozen=True)
class MetricScale:
    """The detectable difference of one metric in its unit, with where the spread comes from.

    `sd`: of the paired difference, pooled over `contrasts` with `freedom` degrees of freedom in all.
    """

    metric: str
    unit: str
    difference: float
    sd: float
    contrasts: int
    freedom: int
    run: str
    data: str | None


@dataclass(frozen=True)
class Detectable:
    """What `seeds` seeds can detect in a family of `comparisons`, with this power. `effect`: in standard deviations of
    the paired difference; None for fewer than three seeds."""

    seeds: int
    comparisons: int
    alpha: float
    power: float
    effect: float | None
    scales: tuple[MetricScale, ...] = ()


def find_detectable(plan: Plan, results: Path) -> Detectable | None:
    """What the seeds of a plan can detect; None for a plan without a comparison, and for a smoke run.

    The spread of each metric is that of the suite's latest run with records of two common seeds.
    """
    if plan.suite.timed_alone or plan.smoke:
        return None
    declared, cells = plan.suite.statistics, plan.final_cells
    first = [cell for cell in cells if cell.data_label == plan.baseline.data_label]
    labels = list(dict.fromkeys(row_label(cell.backbone_label, cell.scan_words) for cell in first))
    family = _family(declared, labels, row_label(plan.baseline.backbone_label, plan.baseline.scan_words))
    if not family:
        return None
    alpha, power = (LEVEL, POWER) if declared is None else (declared.alpha, declared.power)
    seeds = (None if declared is None else declared.tests_at_seeds) or len(plan.suite.seeds)
    effect = detectable_difference(seeds, alpha / len(family), power)
    scales = () if effect is None else tuple(_scales(plan, results, effect))
    return Detectable(seeds, len(family), alpha, power, effect, scales)


def _family(declared: Statistics | None, labels: Sequence[str], baseline: str) -> list[RowContrast]:
    return baseline_family(labels, baseline) if declared is None else resolve_family(declared, labels, baseline)


def _scales(plan: Plan, results: Path, effect: float) -> Iterator[MetricScale]:
    """The detectable difference in the units of the metrics, from the latest run that has the records for it."""
    runs, _ = find_runs(results / plan.suite.name)
    for run in reversed([run for run in runs if not run.table.smoke]):
        with contextlib.suppress(ComparisonRefused):
            found = [one for table in read_tables(run.folder) for one in _scales_of(plan, table, effect)]
            if found:
                yield from found
                return


def _scales_of(plan: Plan, table: Table, effect: float) -> Iterator[MetricScale]:
    declared = plan.suite.statistics
    rows = {differences.row_label(row): row for row in table.rows if row.role == "cell"}
    family = list(_known_family(declared, rows, row_label(*table.baseline)))
    wanted = None if declared is None else (declared.primary, *(declared.secondary or ()))
    for metric in table.metric_names if wanted is None else wanted:
        spreads = [_spread(rows, contrast, metric, table.seeds) for contrast in family]
        known = [one for one in spreads if one is not None]
        freedom = sum(one[1] for one in known)
        example = next((row.metrics[metric] for row in rows.values() if metric in row.metrics), None)
        if freedom and example is not None and example.stage == "quality":
            sd = math.sqrt(sum(one[0] ** 2 * one[1] for one in known) / freedom)
            yield MetricScale(metric, example.unit, effect * sd, sd, len(known), freedom, table.run, table.data)


def _known_family(declared: Statistics | None, rows: dict[str, TableRow], baseline: str) -> Iterator[RowContrast]:
    """The contrasts whose rows an earlier run has; it may be one of a suite with fewer rows."""
    if declared is None or declared.family == "baseline":
        yield from baseline_family(list(rows), baseline)
        return
    for name, one in declared.family.items():
        with contextlib.suppress(UsageError):
            sides = (resolve_rows(patterns, list(rows), "") for patterns in (one.row, one.against))
            yield RowContrast(name, *sides)


def _spread(
    rows: dict[str, TableRow], contrast: RowContrast, metric: str, seeds: Sequence[int]
) -> tuple[float, int] | None:
    """The standard deviation of a paired difference and its degrees of freedom; None for fewer than two seeds."""
    left, right = (
        mean_by_seed([rows[label] for label in labels], metric, seeds) for labels in (contrast.rows, contrast.against)
    )
    values = [left[seed] - right[seed] for seed in left if seed in right]
    sd = standard_deviation(values)
    return None if sd is None else (sd, len(values) - 1)


def describe_detectable(found: Detectable | None) -> list[str]:
    """The lines of a plan about the detectable difference."""
    if found is None:
        return []
    family = f"{found.comparisons} comparison{'s' if found.comparisons > 1 else ''}"
    if found.effect is None:
        return [f"detectable: nothing: a paired test needs {LEAST_SEEDS} seeds, and the suite has {found.seeds}"]
    lines = [
        f"detectable: {found.seeds} seeds find a difference of {found.effect:.2f} standard deviations of the paired "
        f"difference with {found.power:.0%} power ({family}, first step of Holm's correction, alpha {found.alpha:g})"
    ]
    for one in found.scales:
        place = f"the run {one.run}" + (f" on {one.data}" if one.data else "")
        lines.append(
            f"detectable in {one.metric}: {format_shift(one.difference, one.unit).lstrip('+')} (standard deviation "
            f"{format_shift(one.sd, one.unit).lstrip('+')}, from {one.contrasts} comparisons of {place})"
        )
    if not found.scales:
        lines.append("detectable in the unit of a metric: not known before the suite has records of two seeds")
    return lines
