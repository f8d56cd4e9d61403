"""Intervals, paired tests and Holm's correction: compared with hand calculation, with SciPy, and with a second
formulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zigma_bench.reports.statistics import holm, paired_test, standard_deviation, t_interval


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
