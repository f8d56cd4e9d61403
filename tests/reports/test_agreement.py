"""Rank agreement, correlation of pairs and variance components: hand calculation, SciPy, statsmodels, simulations."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from zigma_bench.reports.agreement import pair_correlation, rank_agreement, variance_components


def test_rank_agreement_by_hand():
    """Of the 10 pairs of 1, 2, 3, 5, 4 one is in another order: tau 0.8; rho 1 - 6 * 2 / (5 * 24) = 0.9."""
    found = rank_agreement([1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 50.0, 40.0])
    assert (found.n, found.tau, found.rho) == (5, pytest.approx(0.8), pytest.approx(0.9))
    half = 1.959964 * math.sqrt(0.437 / 1)
    assert found.tau_interval.low == pytest.approx(math.tanh(math.atanh(0.8) - half), rel=1e-6)
    half = 1.959964 * math.sqrt((1 + 0.81 / 2) / 2)
    assert found.rho_interval.high == pytest.approx(math.tanh(math.atanh(0.9) + half), rel=1e-6)


def test_perfect_agreement_has_no_interval():
    found = rank_agreement([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 5.0, 7.0, 11.0])
    assert (found.tau, found.tau_interval, found.rho_interval) == (pytest.approx(1), None, None)


def test_too_few_rows_and_equal_values_have_no_agreement():
    assert rank_agreement([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]) is None
    assert rank_agreement([1.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) is None


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.85])
def test_the_intervals_contain_the_true_agreement_that_often(correlation):
    """Of a bivariate normal: tau = 2/pi asin r, and rho = 6/pi asin(r/2); 95% of 600 intervals of 16 rows."""
    tau, rho = 2 / math.pi * math.asin(correlation), 6 / math.pi * math.asin(correlation / 2)
    generator, inside = np.random.default_rng(1), np.zeros(2)
    for _ in range(600):
        rows = generator.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], 16)
        found = rank_agreement(*rows.T.tolist())
        for index, (truth, interval) in enumerate(((tau, found.tau_interval), (rho, found.rho_interval))):
            inside[index] += interval.low <= truth <= interval.high
    assert all(inside / 600 > 0.93) and all(inside / 600 < 0.985)


def test_correlation_of_pairs_is_scipys():
    from scipy import stats

    generator = np.random.default_rng(2)
    shared = generator.normal(size=8)
    a, b = (list(shared + 0.5 * generator.normal(size=8)) for _ in range(2))
    theirs = stats.pearsonr(a, b)
    found, interval = pair_correlation(a, b), theirs.confidence_interval(0.95)
    assert (found.n, found.r) == (8, pytest.approx(theirs.statistic))
    assert (found.interval.low, found.interval.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    difference = np.var(np.subtract(a, b), ddof=1)
    assert found.variance_ratio == pytest.approx(difference / (np.var(a, ddof=1) + np.var(b, ddof=1)))
    assert found.variance_ratio < 1
    assert pair_correlation(a[:2], b[:2]) is None and pair_correlation(a[:3], b[:3]).interval is None
    assert pair_correlation(a, [1.0] * 8) is None and pair_correlation(a, [1.0] * 7 + [1.0 + 1e-160]) is None
    assert pair_correlation(a, [0.0] * 7 + [1e-160]) is None, "a variance that is no normal number"


def test_variance_components_by_hand():
    """Draws 1, 2 and seeds 0, 1 with the values 1, 3 and 5, 7: means 2, 6 and 3, 5, and no rest."""
    found = variance_components({"one": {0: 1.0, 1: 3.0}, "two": {0: 5.0, 1: 7.0}})
    assert (found.draws, found.seeds, found.mean, found.rest) == (2, 2, 4.0, 0.0)
    assert (found.draw, found.seed, found.draw_p) == (8.0, 2.0, 0.0)


def test_variance_components_are_those_of_a_mixed_model(statsmodels):
    """In a balanced design, estimates from mean squares are those of restricted maximum likelihood."""
    import pandas as pd
    from statsmodels.regression.mixed_linear_model import MixedLM

    generator = np.random.default_rng(3)
    draws, seeds = 6, 8
    table = 10 + 2 * generator.normal(size=(draws, 1)) + generator.normal(size=(1, seeds))
    table = table + 0.5 * generator.normal(size=(draws, seeds))
    found = variance_components({str(d): dict(enumerate(row)) for d, row in enumerate(table.tolist())})
    lines = [(d, s, table[d, s]) for d in range(draws) for s in range(seeds)]
    data = pd.DataFrame(lines, columns=["draw", "seed", "value"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {"draw": "0 + C(draw)", "seed": "0 + C(seed)"}
        fitted = MixedLM.from_formula("value ~ 1", data, groups=np.ones(len(data)), vc_formula=parts).fit(reml=True)
    assert [found.draw, found.seed] == pytest.approx(list(fitted.vcomp), rel=2e-3)
    assert found.rest == pytest.approx(fitted.scale, rel=2e-3)
    assert found.draw_p < 1e-6


def test_a_negative_estimate_is_zero_and_missing_seeds_are_left_out():
    values = {"one": {0: 1.0, 1: 2.0, 2: 9.0}, "two": {0: 2.0, 1: 1.0}}
    found = variance_components(values)
    assert (found.seeds, found.draw, found.seed) == (2, 0.0, 0.0) and found.rest > 0
    assert variance_components({"one": {0: 1.0, 1: 2.0}}) is None and variance_components({}) is None
    assert variance_components({"one": {0: 1.0}, "two": {1: 1.0}}) is None
    equal = variance_components({"one": {0: 1.0, 1: 1.0}, "two": {0: 1.0, 1: 1.0}})
    assert (equal.draw, equal.rest, equal.draw_p) == (0.0, 0.0, 1.0)
