"""Intervals of means over seeds, paired t-tests, and Holm's correction for multiple comparisons.

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


def t_interval(values: Sequence[float]) -> Interval | None:
    """The 95% t-interval of a mean; None for fewer than three values."""
    from scipy.special import stdtrit

    if len(values) < LEAST_SEEDS:
        return None
    mean, df = statistics.fmean(values), len(values) - 1
    half = float(stdtrit(df, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean - half, mean + half)


def paired_test(row: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """t and the two-sided p of the paired t-test; None for fewer than three pairs, or if the differences don't vary."""
    from scipy.special import stdtr

    assert len(row) == len(base), (len(row), len(base))
    differences = [a - b for a, b in zip(row, base, strict=True)]
    if len(differences) < LEAST_SEEDS:
        return None
    sd = statistics.stdev(differences)
    if sd <= NO_SPREAD * max(map(abs, (*row, *base))):
        return None
    t = statistics.fmean(differences) / (sd / math.sqrt(len(differences)))
    return t, 2 * float(stdtr(len(differences) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values in the same order. For the k-th smallest of m: max over j <= k of (m - j + 1) p_j, at most
    1."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
