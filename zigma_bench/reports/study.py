"""All statistics that a suite declares, computed from the table of one run on one data set."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from zigma_bench.plan.statistics import metrics_of, resolve_family, resolve_rows
from zigma_bench.reports.agreement import Agreement, VarianceComponents, rank_agreement, variance_components
from zigma_bench.reports.contrasts import Claim, ContrastTest, compute_tests, make_claims
from zigma_bench.reports.differences import row_label
from zigma_bench.reports.multiplier import MultiplierResult, compute_multipliers
from zigma_bench.reports.table import Statistic, Table, TableRow
from zigma_bench.suite import Statistics


@dataclass(frozen=True)
class MetricAgreement:
    """How two metrics, or one metric at two scales, rank the same rows. `agreement` is None for too few rows."""

    first: str
    second: str
    metric: str | None  # of two scales
    n: int
    agreement: Agreement | None


@dataclass(frozen=True)
class DrawVariance:
    """The variance components of a metric over the draws of one random order; None for too few draws or seeds."""

    draws: str
    metric: str
    components: VarianceComponents | None


@dataclass(frozen=True)
class Study:
    """The declared statistics of a table. `seeds`: those of the tests."""

    declared: Statistics
    seeds: tuple[int, ...]
    tests: tuple[ContrastTest, ...]
    claims: tuple[Claim, ...]
    agreements: tuple[MetricAgreement, ...]
    scales: tuple[MetricAgreement, ...]
    multipliers: tuple[MultiplierResult, ...]
    variances: tuple[DrawVariance, ...]

    def of_metric(self, metric: str) -> list[ContrastTest]:
        """The tests of all contrasts in one metric."""
        return [one for one in self.tests if one.metric == metric]


def study_of(table: Table) -> Study | None:
    """The statistics that the suite of a table declares; None if it declares none, and for a smoke run."""
    declared = table.declared
    if declared is None or table.smoke:
        return None
    rows = {row_label(row): row for row in table.rows if row.role == "cell"}
    quality = [name for name in table.metric_names if any(_is_quality(row, name) for row in table.rows)]
    metrics = metrics_of(declared, quality)
    seeds = table.seeds[: declared.tests_at_seeds]
    family = resolve_family(declared, list(rows), " ".join(filter(None, table.baseline)))
    tests = compute_tests(table, declared, family, metrics, seeds)
    return Study(
        declared=declared,
        seeds=seeds,
        tests=tuple(tests),
        claims=tuple(make_claims(tests, declared.primary)),
        agreements=tuple(_metric_agreements(list(rows.values()), metrics, declared)),
        scales=tuple(_scale_agreements(rows, metrics, declared)),
        multipliers=tuple(_multipliers(rows, declared)),
        variances=tuple(_variances(rows, metrics, declared)),
    )


def _is_quality(row: TableRow, name: str) -> bool:
    return name in row.metrics and row.metrics[name].stage == "quality"


def _metric_agreements(
    rows: Sequence[TableRow], metrics: Sequence[str], declared: Statistics
) -> Iterator[MetricAgreement]:
    """How the primary metric and each other one rank the rows, by their means over seeds."""
    for name in metrics[1:]:
        both = [(_goodness(row, metrics[0]), _goodness(row, name)) for row in rows]
        yield _agreement(metrics[0], name, None, both, declared)


def _scale_agreements(
    rows: Mapping[str, TableRow], metrics: Sequence[str], declared: Statistics
) -> Iterator[MetricAgreement]:
    """How each metric ranks the scans at every two scales."""
    at = {name: _by_scan(rows, patterns) for name, patterns in declared.scales.items()}
    for metric in metrics:
        for first, second in combinations(at, 2):
            common = [scan for scan in at[first] if scan in at[second]]
            both = [(_goodness(at[first][scan], metric), _goodness(at[second][scan], metric)) for scan in common]
            yield _agreement(first, second, metric, both, declared)


def _by_scan(rows: Mapping[str, TableRow], patterns: Sequence[str]) -> dict[str, TableRow]:
    """The rows of a scale by scan; a row without a scan by its backbone. Of two rows of one scan, the first counts."""
    found: dict[str, TableRow] = {}
    for label in resolve_rows(patterns, list(rows), "statistics.scales"):
        found.setdefault(rows[label].scan or str(rows[label].backbone).split()[0], rows[label])
    return found


def _goodness(row: TableRow, metric: str) -> float | None:
    """The mean of a metric, with a sign such that lower is better; None without a value."""
    found: Statistic | None = row.metrics.get(metric)
    if found is None or found.mean is None:
        return None
    return -found.mean if found.better == "higher" else found.mean


def _agreement(
    first: str, second: str, metric: str | None, both: Sequence[tuple[float | None, float | None]], declared: Statistics
) -> MetricAgreement:
    known = [(a, b) for a, b in both if a is not None and b is not None]
    found = rank_agreement([a for a, _ in known], [b for _, b in known], 1 - declared.alpha)
    return MetricAgreement(first, second, metric, len(known), found)


def _multipliers(rows: Mapping[str, TableRow], declared: Statistics) -> Iterator[MultiplierResult]:
    """The multipliers of all arms but the one that they are compared with."""
    wanted = declared.multiplier
    if wanted is None:
        return
    losses = {name: _losses(rows, patterns, wanted.metric) for name, patterns in wanted.arms.items()}
    for name in losses:
        if name != wanted.against:
            yield from compute_multipliers(
                name, losses[name], wanted.against, losses[wanted.against], wanted.fit, 1 - declared.alpha
            )


def _losses(rows: Mapping[str, TableRow], patterns: Sequence[str], metric: str) -> dict[float, dict[int, float]]:
    """The losses of an arm by training FLOPs and seed. Rows of equal FLOPs are averaged by seed."""
    found: dict[float, list[dict[int, float]]] = {}
    for label in resolve_rows(patterns, list(rows), "statistics.multiplier.arms"):
        row = rows[label]
        if row.train_flops is not None and metric in row.metrics and row.metrics[metric].values:
            found.setdefault(row.train_flops, []).append(row.metrics[metric].values)
    return {flops: _mean_values(values) for flops, values in found.items()}


def _mean_values(values: Sequence[Mapping[int, float]]) -> dict[int, float]:
    common = set.intersection(*map(set, values))
    return {seed: statistics.fmean(one[seed] for one in values) for seed in sorted(common)}


def _variances(rows: Mapping[str, TableRow], metrics: Sequence[str], declared: Statistics) -> Iterator[DrawVariance]:
    for name, patterns in declared.draws.items():
        labels = resolve_rows(patterns, list(rows), "statistics.draws")
        for metric in metrics:
            values = {label: rows[label].metrics[metric].values for label in labels if metric in rows[label].metrics}
            yield DrawVariance(name, metric, variance_components(values))
