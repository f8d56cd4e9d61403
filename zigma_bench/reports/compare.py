"""Compare rows with the baseline row, paired over their common seeds, with a t-test if that is meaningful.

A comparison is `significant` or `not significant` by its p, Holm-adjusted over all tested comparisons of one metric. It
is `indicative` with fewer than three common seeds, and `untested` if a p value would be misleading; `reason` says why.
If the suite declares its tests, all are `declared`: those tests are the only ones (`contrasts.py`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zigma_bench.reports.statistics import LEAST_SEEDS, LEVEL, holm, paired_test, standard_deviation, t_interval

if TYPE_CHECKING:
    from zigma_bench.reports.table import TableRow

Verdict = Literal["significant", "not significant", "indicative", "untested", "declared"]

UNEQUAL_SCANS = (
    "it scans a different number of tokens than the baseline at equal images, which is a different amount of work"
)
SMOKE = "a smoke run"
NO_SPREAD = "the difference is the same for every seed, and a t-test needs differences that vary"


@dataclass(frozen=True)
class Difference:
    """A row's value minus the baseline's: mean, standard deviation, 95% t-interval and test over `n` common seeds.

    `ci_low`, `ci_high`, `t`, `p` and `p_holm` are None without a test.
    """

    mean: float
    sd: float | None
    n: int
    verdict: Verdict
    reason: str | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    t: float | None = None
    p: float | None = None
    p_holm: float | None = None


def with_differences(
    rows: Sequence[TableRow],
    baseline: tuple[str | None, str | None],
    *,
    budget: Sequence[str],
    smoke: bool,
    declared: bool = False,
) -> tuple[TableRow, ...]:
    """Add the differences to the row of `baseline` (a backbone and a scan) to the rows of cells.

    `budget`: what is equal for all cells. With equal `flops` or `seconds`, scans of different lengths are comparable;
    with equal `images` they are not. `declared`: the suite declares its own tests, so none are made here.
    """
    found = list(rows)
    for varied in dict.fromkeys(str(row.varied) for row in rows if row.role == "cell"):
        group = [number for number, row in enumerate(rows) if row.role == "cell" and str(row.varied) == varied]
        compared = _compare_group([rows[number] for number in group], baseline, budget, smoke, declared)
        for number, row in zip(group, compared, strict=True):
            found[number] = row
    return tuple(found)


def _compare_group(
    rows: Sequence[TableRow],
    baseline: tuple[str | None, str | None],
    budget: Sequence[str],
    smoke: bool,
    declared: bool,
) -> Sequence[TableRow]:
    """The rows of cells with the same varied values, compared with the baseline among them."""
    base = next((r for r in rows if (r.backbone, r.scan) == baseline), None)
    if base is None:
        return rows
    found = [replace(row, baseline=row is base) for row in rows]
    for name, statistic in base.metrics.items():
        if statistic.stage != "quality":  # speed doesn't depend on the seed
            continue
        others = [i for i, r in enumerate(rows) if r is not base and name in r.metrics]
        made = {i: _compare_rows(rows[i], base, name, budget, smoke) for i in others}
        if declared and not smoke:
            made = {i: one and _as_declared(one) for i, one in made.items()}
        for i, difference in zip(made, _adjust_p_values(list(made.values())), strict=True):
            if difference is not None:
                found[i] = replace(found[i], differences={**found[i].differences, name: difference})
    return found


def _compare_rows(row: TableRow, base: TableRow, name: str, budget: Sequence[str], smoke: bool) -> Difference | None:
    """One comparison, before its p is adjusted; None without a common seed."""
    ours, theirs = row.metrics[name].values, base.metrics[name].values
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    left, right = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    values = [a - b for a, b in zip(left, right, strict=True)]
    plain = Difference(statistics.fmean(values), standard_deviation(values), len(values), "untested")
    if smoke:
        return replace(plain, reason=SMOKE)
    if "images" in budget_kinds(row, budget) and not _equal_scans(row, base):
        return replace(plain, reason=UNEQUAL_SCANS)
    if len(seeds) < LEAST_SEEDS:
        return replace(plain, verdict="indicative", reason=f"{len(seeds)} common seeds of at least {LEAST_SEEDS}")
    tested, interval = paired_test(left, right), t_interval(values)
    if tested is None or interval is None:
        return replace(plain, reason=NO_SPREAD)
    return replace(plain, ci_low=interval.low, ci_high=interval.high, t=tested[0], p=tested[1])


def budget_kinds(row: TableRow, budget: Iterable[str]) -> set[str]:
    """The kind of budget of a row: that of a varied key, or else that of the suite."""
    varied = {key.partition(".")[2] for key in row.varied if key.startswith("budget.")}
    return varied or set(budget)


def _as_declared(difference: Difference) -> Difference:
    """A difference without a test, because the suite declares which ones are made."""
    return Difference(difference.mean, difference.sd, difference.n, "declared")


def _adjust_p_values(found: Sequence[Difference | None]) -> list[Difference | None]:
    """The comparisons of one metric, with p adjusted for their number."""
    tested = [i for i, difference in enumerate(found) if difference is not None and difference.p is not None]
    adjusted = list(found)
    for i, p in zip(tested, holm([d.p for d in found if d is not None and d.p is not None]), strict=True):
        difference = found[i]
        assert difference is not None
        adjusted[i] = replace(difference, p_holm=p, verdict="significant" if p < LEVEL else "not significant")
    return adjusted


def _equal_scans(row: TableRow, base: TableRow) -> bool:
    return math.isclose(row.facts["scanned_ratio"], base.facts["scanned_ratio"], rel_tol=1e-9)
