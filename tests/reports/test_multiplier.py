"""Compute multipliers: known laws are found again, intervals hold the truth that often, and nothing is extrapolated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zigma_bench.reports.multiplier import compute_multipliers, fit_power_law

BUDGETS = (1e15, 3e15, 1e16, 3e16, 1e17)


def law(flops: float, saving: float = 1.0) -> float:
    """The loss of an arm that needs `saving` times less compute."""
    return 2.0 * (saving * flops / 1e15) ** -0.35 + 0.15


def losses(saving=1.0, noise=0.0, seeds=3, generator=None, budgets=BUDGETS, shared=None):
    drawn = (
        np.zeros((len(budgets), seeds)) if generator is None else noise * generator.normal(size=(len(budgets), seeds))
    )
    drawn = drawn if shared is None else drawn + shared
    return {
        flops: {seed: law(flops, saving) * math.exp(drawn[i, seed]) for seed in range(seeds)}
        for i, flops in enumerate(budgets)
    }


def inner(found):
    """The results at budgets where both arms were measured around the loss."""
    return [one for one in found if one.value is not None]


def test_interpolation_of_a_pure_power_law_is_exact():
    """Without a floor the log-log plot is a line, so a saving of 2.5 is found again at every budget in range."""
    arms = [{flops: dict.fromkeys(range(3), (saving * flops) ** (-0.2)) for flops in BUDGETS} for saving in (2.5, 1)]
    found = compute_multipliers("fast", arms[0], "slow", arms[1], "interpolation")
    assert [one.value for one in inner(found)] == pytest.approx([2.5] * 4)
    assert [one.low for one in inner(found)] == pytest.approx([2.5] * 4)
    assert found[0].value is None and "lower already at its smallest budget" in found[0].reason


def test_the_fit_of_a_law_with_a_floor_is_exact():
    fitted = fit_power_law(losses())
    assert fitted.loss(5e15) == pytest.approx(law(5e15), rel=1e-6)
    assert fitted.parameters[2] == pytest.approx(0.15, rel=1e-4) and math.exp(fitted.parameters[1]) == pytest.approx(
        0.35
    )
    found = compute_multipliers("fast", losses(2.0), "slow", losses(), "power-law")
    assert [one.value for one in inner(found)] == pytest.approx([2.0] * 4, rel=1e-5)
    assert "delta method" in found[1].method and "seeds" in found[1].method


def test_nothing_is_extrapolated():
    """An arm that is 1000 times slower or faster has the loss of no budget of the other."""
    for fit in ("interpolation", "power-law"):
        slow = compute_multipliers("slow", losses(1e-3), "base", losses(), fit)
        fast = compute_multipliers("fast", losses(1e3), "base", losses(), fit)
        assert all(one.value is None and "higher even at its largest budget" in one.reason for one in slow)
        assert all(one.value is None and "lower already at its smallest budget" in one.reason for one in fast)
        assert slow[0].reason.endswith("it is below 0.01") and fast[-1].reason.endswith("it is above 100")


def test_a_slower_arm_has_a_multiplier_below_one():
    found = compute_multipliers("slow", losses(0.5), "base", losses(), "power-law")
    assert [one.value for one in inner(found)] == pytest.approx([0.5] * 4, rel=1e-5)
    assert found[-1].value is None


@pytest.mark.parametrize(("fit", "saving"), [("interpolation", 10.0), ("power-law", 2.0)])
def test_the_intervals_contain_the_saving_that_often(fit, saving):
    """95% of 300 simulated studies. Interpolation errs between the budgets, so it is tested where a budget is met."""
    generator, inside = np.random.default_rng(4), 0
    for _ in range(300):
        fast, slow = (losses(one, 0.005, 3, generator) for one in (saving, 1.0))
        found = compute_multipliers("fast", fast, "slow", slow, fit)[3]
        assert found.flops == 3e16 and found.value is not None
        inside += found.low <= saving <= found.high
    assert inside / 300 == pytest.approx(0.95, abs=0.03)


def test_what_the_seeds_share_does_not_widen_the_interval():
    """Pairs: a seed that is hard for both arms moves both curves."""
    generator = np.random.default_rng(5)
    shared = 0.02 * generator.normal(size=(1, 4))
    paired = [losses(saving, 1e-4, 4, generator, shared=shared) for saving in (10.0, 1.0)]
    alone = [losses(10.0, 1e-4, 4, generator, shared=shared), losses(1.0, 1e-4, 4, generator, shared=shared[:, ::-1])]
    narrow, wide = (compute_multipliers("a", *(arms[0], "b", arms[1]), "interpolation")[3] for arms in (paired, alone))
    assert math.log(wide.high / wide.low) > 3 * math.log(narrow.high / narrow.low)


def test_too_few_budgets_or_seeds_are_said():
    two = BUDGETS[:2]
    (first, _) = compute_multipliers("a", losses(2.0, budgets=two), "b", losses(budgets=two), "power-law")
    assert first.value is None and "needs 4 budgets or more" in first.reason
    one = compute_multipliers("a", losses(2.0, budgets=BUDGETS[:1]), "b", losses(budgets=BUDGETS[:1]), "interpolation")
    assert "needs two budgets or more" in one[0].reason
    few = compute_multipliers("a", losses(2.0, seeds=2), "b", losses(seeds=2), "interpolation")[2]
    assert (
        few.value == pytest.approx(2.0, rel=0.05) and few.low is None and few.reason == "2 of 3 seeds for an interval"
    )


def test_a_loss_that_rises_with_compute_has_no_multiplier():
    rising = {1e15: {0: 1.0}, 1e16: {0: 1.1}}
    found = compute_multipliers("a", rising, "b", {1e15: {0: 1.05}}, "interpolation")
    assert "doesn't fall from budget to budget" in found[0].reason


def test_a_metric_that_is_not_positive_has_no_multiplier():
    """A kernel distance can be negative, and has no logarithm."""
    values = {1e15: {0: 0.1}, 1e16: {0: -0.01}}
    for fit in ("interpolation", "power-law"):
        found = compute_multipliers("a", values, "b", losses(), fit)
        assert all(one.value is None and "a loss above zero" in one.reason for one in found)
