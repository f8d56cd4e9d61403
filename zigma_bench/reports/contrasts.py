"""The declared contrasts of a study: paired tests and equivalence tests, corrected over the family, and the claims.

The family is tested once, at the declared number of seeds. Before that, a contrast says which seeds are missing. Holm's
correction runs over all contrasts of the family for each metric, also over those that aren't tested yet, so no later
seed can take a finding away.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from zigma_bench.plan.statistics import RowContrast
from zigma_bench.reports.agreement import PairCorrelation, pair_correlation
from zigma_bench.reports.better import Better
from zigma_bench.reports.compare import NO_SPREAD, budget_kinds
from zigma_bench.reports.differences import row_label
from zigma_bench.reports.statistics import holm, paired_equivalence, paired_test, standard_deviation, t_interval
from zigma_bench.reports.table import Table, TableRow
from zigma_bench.suite import Statistics

ContrastVerdict = Literal[
    "differs", "differs within the margin", "equivalent", "not decided", "seeds are missing", "not tested"
]
DIFFERENT: tuple[ContrastVerdict, ...] = ("differs", "differs within the margin")
EQUIVALENT: tuple[ContrastVerdict, ...] = ("equivalent", "differs within the margin")
NO_VALUES = "a row has no value"
UNEQUAL_SCANS = "the rows scan different numbers of tokens at equal images, which is a different amount of work"


@dataclass(frozen=True)
class ContrastTest:
    """One contrast in one metric over `n` of the `wanted` seeds.

    `mean`, `sd`, `ci_low`, `ci_high`: the paired difference with its interval. `p_holm` and `equivalence_p_holm` are
    corrected over the family. `correlation`: of the paired values. Fields are None where nothing was tested; `reason`
    says why.
    """

    contrast: str
    metric: str
    unit: str
    better: Better | None
    n: int
    wanted: int
    verdict: ContrastVerdict
    reason: str | None = None
    mean: float | None = None
    sd: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    t: float | None = None
    p: float | None = None
    p_holm: float | None = None
    margin: float | None = None
    equivalence_p: float | None = None
    equivalence_p_holm: float | None = None
    correlation: PairCorrelation | None = None

    @property
    def direction(self) -> str | None:
        """`better` or `worse` for a difference whose direction is known; `lower` or `higher` without one."""
        if self.verdict not in DIFFERENT or self.mean is None:
            return None
        if self.better is None:
            return "lower" if self.mean < 0 else "higher"
        return "better" if (self.mean < 0) == (self.better == "lower") else "worse"


@dataclass(frozen=True)
class Claim:
    """What the metrics together say about one contrast: a finding of the primary metric, or `mixed`.

    `text` names the metrics that contradict the finding, or those that confirm it and those that don't decide.
    """

    contrast: str
    finding: str
    text: str


def compute_tests(
    table: Table, declared: Statistics, family: Sequence[RowContrast], metrics: Sequence[str], seeds: Sequence[int]
) -> list[ContrastTest]:
    """The tests of a family in each metric, the primary metric of all contrasts first. `seeds`: those of the tests."""
    rows = {row_label(row): row for row in table.rows if row.role == "cell"}
    return [
        one
        for metric in metrics
        for one in _correct(
            [_test(table, declared, contrast, metric, seeds, rows) for contrast in family], declared.alpha
        )
    ]


def _test(
    table: Table,
    declared: Statistics,
    contrast: RowContrast,
    metric: str,
    seeds: Sequence[int],
    rows: Mapping[str, TableRow],
) -> ContrastTest:
    """One contrast in one metric, before the correction over the family."""
    sides = [[rows[label] for label in labels] for labels in (contrast.rows, contrast.against)]
    both = [row for side in sides for row in side]
    known = next((row.metrics[metric] for row in both if metric in row.metrics), None)
    unit, better = ("", None) if known is None else (known.unit, known.better)
    left, right = (mean_by_seed(side, metric, seeds) for side in sides)
    common = [seed for seed in seeds if seed in left and seed in right]
    pairs = [left[seed] for seed in common], [right[seed] for seed in common]
    differences = [a - b for a, b in zip(*pairs, strict=True)]
    plain = ContrastTest(
        contrast=contrast.name, metric=metric, unit=unit, better=better, n=len(common), wanted=len(seeds),
        verdict="not tested", mean=statistics.fmean(differences) if differences else None,
        sd=standard_deviation(differences),
    )  # fmt: skip
    at_equal_images = any("images" in budget_kinds(row, table.budget) for row in both)
    if table.smoke or (at_equal_images and not _scan_alike(both)):
        return replace(plain, reason="a smoke run" if table.smoke else UNEQUAL_SCANS)
    if missing := [seed for seed in seeds if seed not in common]:
        text = f"{len(missing)} of {len(seeds)} seeds: {', '.join(map(str, missing))}"
        return replace(plain, verdict="seeds are missing", reason=text if common else f"{text}; {NO_VALUES}")
    return _with_tests(plain, declared, *pairs)


def _with_tests(plain: ContrastTest, declared: Statistics, row: list[float], base: list[float]) -> ContrastTest:
    tested = paired_test(row, base)
    interval = t_interval([a - b for a, b in zip(row, base, strict=True)], 1 - declared.alpha)
    if tested is None or interval is None:
        return replace(plain, reason=NO_SPREAD)
    margin = declared.margin[plain.metric].difference if plain.metric in declared.margin else None
    return replace(
        plain, verdict="not decided", ci_low=interval.low, ci_high=interval.high, t=tested[0], p=tested[1],
        margin=margin, equivalence_p=None if margin is None else paired_equivalence(row, base, margin),
        correlation=pair_correlation(row, base, 1 - declared.alpha),
    )  # fmt: skip


def mean_by_seed(rows: Sequence[TableRow], metric: str, seeds: Sequence[int]) -> dict[int, float]:
    """The mean of a metric over rows, for each seed for which all of them have a value."""
    values = [row.metrics[metric].values if metric in row.metrics else {} for row in rows]
    return {seed: statistics.fmean(one[seed] for one in values) for seed in seeds if all(seed in one for one in values)}


def _scan_alike(rows: Sequence[TableRow]) -> bool:
    """Whether all rows scan equally many tokens, as a comparison at equal images needs."""
    ratios = [row.facts["scanned_ratio"] for row in rows]
    return all(math.isclose(ratio, ratios[0], rel_tol=1e-9) for ratio in ratios)


def _correct(tests: Sequence[ContrastTest], alpha: float) -> list[ContrastTest]:
    """The tests of one metric with corrected p values and verdicts. A contrast without a test counts with p = 1."""
    different = holm([1.0 if one.p is None else one.p for one in tests])
    equal = holm([1.0 if one.equivalence_p is None else one.equivalence_p for one in tests])
    return [
        one if one.p is None else _decide(one, p, None if one.equivalence_p is None else q, alpha)
        for one, p, q in zip(tests, different, equal, strict=True)
    ]


def _decide(one: ContrastTest, p: float, equivalence_p: float | None, alpha: float) -> ContrastTest:
    differs, equals = p < alpha, equivalence_p is not None and equivalence_p < alpha
    verdict: ContrastVerdict = "differs" if differs else "not decided"
    if equals:
        verdict = "differs within the margin" if differs else "equivalent"
    return replace(one, p_holm=p, equivalence_p_holm=equivalence_p, verdict=verdict)


def make_claims(tests: Sequence[ContrastTest], primary: str) -> list[Claim]:
    """One claim for each contrast that the primary metric decides."""
    of: dict[str, dict[str, ContrastTest]] = {}
    for one in tests:
        of.setdefault(one.contrast, {})[one.metric] = one
    decided = {name: found for name, found in of.items() if found[primary].verdict in (*DIFFERENT, *EQUIVALENT)}
    return [_claim(name, found.pop(primary), list(found.values())) for name, found in decided.items()]


def _claim(contrast: str, primary: ContrastTest, others: Sequence[ContrastTest]) -> Claim:
    finding = _finding(primary)
    against = [one for one in others if _contradicts(one, primary)]
    if against:
        findings = "; ".join(f"{one.metric}: {_finding(one)}" for one in against)
        return Claim(contrast, "mixed", f"{primary.metric}: {finding}; {findings}")
    alike = [one.metric for one in others if _has_direction(one) or one.verdict in EQUIVALENT]
    rest = [one.metric for one in others if one.metric not in alike]
    texts = [f"confirmed by {', '.join(alike)}"] * bool(alike) + [f"not decided in {', '.join(rest)}"] * bool(rest)
    return Claim(contrast, finding, "; ".join(texts))


def _finding(one: ContrastTest) -> str:
    if one.verdict == "equivalent":
        return "equivalent"
    return f"{one.direction}{' within the margin' if one.verdict == 'differs within the margin' else ''}"


def _has_direction(one: ContrastTest) -> bool:
    """Whether a test finds a difference whose direction is known to be better or worse."""
    return one.direction in ("better", "worse")


def _contradicts(one: ContrastTest, primary: ContrastTest) -> bool:
    """Whether two findings exclude each other: opposite directions, or a difference against an equivalence."""
    if _has_direction(one) and _has_direction(primary) and one.direction != primary.direction:
        return True
    return {one.verdict, primary.verdict} == {"differs", "equivalent"}
