"""Intervals of means over seeds, paired t-tests and equivalence tests, their power, and Holm's correction.

The mean of n independent values follows Student's t with n - 1 degrees of freedom (Student 1908). Holm 1979
(Scandinavian Journal of Statistics 6, 65-70) limits the probability of any false positive among all comparisons.
Nothing is resampled, because a bootstrap of a Frechet distance is biased by images that are drawn twice.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE, LEVEL = 0.95, 0.05
LEAST_SEEDS = 3  # with fewer seeds, nothing is called a result
NO_SPREAD = 1e-12  # relative to the largest value; a smaller spread is rounding error


@dataclass(frozen=True)
class Interval:
    """A confidence interval around a mean."""

    low: float
    high: float


def standard_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The t-interval of a mean, of 95% by default; None for fewer than three values."""
    from scipy.special import stdtrit

    if len(values) < LEAST_SEEDS:
        return None
    mean, df = statistics.fmean(values), len(values) - 1
    half = float(stdtrit(df, (1 + confidence) / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean - half, mean + half)


def paired_test(row: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """t and the two-sided p of the paired t-test; None for fewer than three pairs, or if the differences don't vary."""
    from scipy.special import stdtr

    spread = _mean_and_error(row, base)
    if spread is None:
        return None
    t = spread[0] / spread[1]
    return t, 2 * float(stdtr(len(row) - 1, -abs(t)))


def paired_equivalence(row: Sequence[float], base: Sequence[float], margin: float) -> float | None:
    """p of the two one-sided paired t-tests that the mean difference is between -margin and margin.

    None for fewer than three pairs, or if the differences don't vary. Source: Schuirmann 1987 (Journal of
    Pharmacokinetics and Biopharmaceutics 15, 657-680).
    """
    from scipy.special import stdtr

    spread = _mean_and_error(row, base)
    if spread is None:
        return None
    mean, error = spread
    return max(float(stdtr(len(row) - 1, -(margin + side * mean) / error)) for side in (1, -1))


def _mean_and_error(row: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """The mean of the paired differences and its standard error; None for fewer than three pairs, or no spread."""
    assert len(row) == len(base), (len(row), len(base))
    differences = [a - b for a, b in zip(row, base, strict=True)]
    if len(differences) < LEAST_SEEDS:
        return None
    sd = statistics.stdev(differences)
    if sd <= NO_SPREAD * max(map(abs, (*row, *base))):
        return None
    return statistics.fmean(differences), sd / math.sqrt(len(differences))


def paired_power(effect: float, pairs: int, level: float) -> float:
    """The probability that the two-sided paired t-test finds a difference of `effect` standard deviations.

    Exact for normal differences: t follows the noncentral t-distribution with the noncentrality effect * sqrt(pairs).
    The standard deviation is that of the paired difference.
    """
    from scipy.special import stdtrit
    from scipy.stats import nct

    df, shift = pairs - 1, effect * math.sqrt(pairs)
    critical = float(stdtrit(df, 1 - level / 2))
    return float(nct.sf(critical, df, shift) + nct.sf(critical, df, -shift))  # nct.cdf is NaN in its far tail


def detectable_difference(pairs: int, level: float, power: float) -> float | None:
    """The difference, in standard deviations of the paired difference, that the paired t-test finds with this power.

    `level`: of the single test; for the first step of Holm's procedure, alpha divided by the number of comparisons.
    None for fewer than three pairs.
    """
    from scipy.optimize import brentq

    if pairs < LEAST_SEEDS:
        return None
    high = 1.0
    while paired_power(high, pairs, level) < power:
        high *= 2
    return float(brentq(lambda effect: paired_power(effect, pairs, level) - power, 0.0, high, xtol=1e-10))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values in the same order. For the k-th smallest of m: max over j <= k of (m - j + 1) p_j, at most
    1."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
