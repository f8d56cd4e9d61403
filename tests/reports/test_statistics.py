"""Intervals, paired tests, equivalence, power and Holm's correction: compared with hand calculation, with SciPy and
statsmodels, with simulations, and with a second formulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zigma_bench.reports.statistics import (
    detectable_difference,
    holm,
    paired_equivalence,
    paired_power,
    paired_test,
    standard_deviation,
    t_interval,
)


def test_the_interval_of_one_two_three_by_hand():
    """Mean 2, sd 1, half width 4.302653 / sqrt(3): t of 2 degrees of freedom is sqrt(2) u / sqrt(1 - u^2), u = 0.95."""
    half = math.sqrt(2) * 0.95 / math.sqrt(1 - 0.95**2) / math.sqrt(3)
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.low, found.high) == (pytest.approx(2 - half, rel=1e-12), pytest.approx(2 + half, rel=1e-12))
    assert half == pytest.approx(2.484138, abs=1e-6)


def test_a_paired_test_by_hand():
    """Differences 1, 2, 3: t = 2 sqrt(3), and with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)."""
    t, p = paired_test([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert t == pytest.approx(2 * math.sqrt(3), rel=1e-12)
    assert p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)


@pytest.mark.parametrize("n", [3, 4, 10])
def test_they_are_scipys(n):
    from scipy import stats

    a, b = np.random.default_rng(n).normal(size=(2, n)) * 3 + 100
    theirs = stats.ttest_rel(a, b)
    assert paired_test(list(a), list(b)) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    ours, interval = t_interval(list(a - b)), theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert standard_deviation(list(a)) == pytest.approx(a.std(ddof=1))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_below_three_there_is_neither_interval_nor_test(values):
    assert t_interval(values) is None
    assert paired_test(values, [0.5 * value for value in values]) is None


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_differences_that_do_not_vary_are_not_tested(shift):
    base = [0.1, 0.2, 0.7]
    assert paired_test([value + shift for value in base], base) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_rejects(p_values, level):
    """Holm 1979: go up from the smallest p, and stop at the first that is not below level / (those left)."""
    adjusted = holm(p_values)
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        bound = level / (len(p_values) - rank)
        if math.isclose(p_values[index], bound, rel_tol=1e-9):
            return  # rounding decides
        if p_values[index] > bound:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(adjusted) if p < level} == rejected
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


def test_equivalence_by_hand():
    """Differences 1, 2, 3 with a margin of 5: the larger p is that of (5 - 2) sqrt(3) with 2 degrees of freedom."""
    t = 3 * math.sqrt(3)
    expected = (1 - t / math.sqrt(t * t + 2)) / 2
    assert paired_equivalence([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], 5.0) == pytest.approx(expected, rel=1e-9)
    assert paired_equivalence([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 5.0) == pytest.approx(expected, rel=1e-9)
    assert paired_equivalence([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], 2.0) == pytest.approx(0.5), "a mean at the margin"
    assert paired_equivalence([1.0, 2.0], [1.0, 2.1], 5.0) is None
    assert paired_equivalence([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], 5.0) is None, "no spread"


@pytest.mark.parametrize("n", [3, 5, 8, 20])
@pytest.mark.parametrize("margin", [0.1, 1.0, 3.0])
def test_equivalence_is_that_of_statsmodels(n, margin, statsmodels):
    a, b = np.random.default_rng(n).normal(size=(2, n)) + 100
    theirs = statsmodels.stats.weightstats.ttost_paired(a, b, -margin, margin)[0]
    assert paired_equivalence(list(a), list(b), margin) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("pairs", [3, 5, 8, 10, 30])
@pytest.mark.parametrize("comparisons", [1, 12, 40])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_the_detectable_difference_is_that_of_statsmodels(pairs, comparisons, power, statsmodels):
    level = 0.05 / comparisons
    found = detectable_difference(pairs, level, power)
    tested = statsmodels.stats.power.TTestPower()
    theirs = tested.power(found, pairs, level)
    theirs = tested.power(found, pairs, level / 2, alternative="larger") if math.isnan(theirs) else theirs  # far tail
    assert theirs == pytest.approx(power, abs=1e-6) and paired_power(found, pairs, level) == pytest.approx(power)


def test_the_detectable_difference_is_found_that_often():
    """8 seeds, 12 comparisons: 80% of 4,000 simulated experiments are significant in Holm's first step."""
    level, pairs = 0.05 / 12, 8
    effect = detectable_difference(pairs, level, 0.8)
    assert effect == pytest.approx(1.863, abs=0.001), "and 1.8 in the approximation by a central t"
    draws = np.random.default_rng(0).normal(effect, 1, (4000, pairs))
    p_values = [paired_test(list(one), [0.0] * pairs)[1] for one in draws]
    assert np.mean(np.array(p_values) < level) == pytest.approx(0.8, abs=0.02)
    assert paired_power(0.0, pairs, level) == pytest.approx(level), "and the level if there is no difference"
    assert detectable_difference(2, level, 0.8) is None


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_holm_is_that_of_statsmodels(statsmodels, p_values):
    theirs = statsmodels.stats.multitest.multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(list(theirs), rel=1e-12)


def test_an_interval_of_another_confidence_is_scipys():
    from scipy import stats

    values = [1.0, 2.5, 2.0, 4.0]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = t_interval(values, 0.9)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
