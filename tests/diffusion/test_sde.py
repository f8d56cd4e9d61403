"""SDEs on Gaussian data: every form of the noise keeps the marginals, at the order of the solver."""

from __future__ import annotations

import math
import typing
from dataclasses import replace

import pytest
import torch
from gaussian import PATHS, PREDICTIONS, Gaussian, affine_moments

from zigma_bench.diffusion.path import coefficients_at
from zigma_bench.diffusion.sde import diffusion_coefficient, solve_sde
from zigma_bench.plan.diffusion import objective_of, sampler_of
from zigma_bench.suite import DiffusionForm, Sample, Train

FORMS = typing.get_args(DiffusionForm)
MEAN, SD = 0.5, 0.7


def moments(path, prediction, *, solver="euler-maruyama", steps=100, form="sigma", norm=1.0, last="none", exact=True):
    """Mean and sd where the sampler ends, and the interval; `exact`: from x_t itself at the start, not from N(0, 1)."""
    train = Train(path=path, prediction=prediction)
    a_step = 2 if solver == "heun-sde" else 1
    sample = Sample(solver=solver, diffusion=form, diffusion_norm=norm, last_step=last,
                    evaluations=a_step * steps + (last != "none"))  # fmt: skip
    sampler = sampler_of(train, sample)
    if last == "none":
        sampler = replace(sampler, interval=(sampler.interval[0], 0.96))
    data = Gaussian(MEAN, SD, path, prediction)
    mean, var = data.moments(sampler.interval[0]) if exact else (torch.zeros(()), torch.ones(()))

    def solve(first, step_noise):
        return solve_sde(data, mean.item() + var.sqrt().item() * first,
                         objective=objective_of(train), sampler=sampler, step_noise=step_noise)  # fmt: skip

    found_mean, found_sd, spent = affine_moments(solve, steps)
    assert spent == sample.evaluations
    return found_mean, found_sd, sampler.interval


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ["euler-maruyama", "heun-sde"])
def test_all_forms_keep_the_marginals_at_the_order_of_the_solver(path, form, solver):
    def errors(steps):
        mean, sd, interval = moments(path, "velocity", solver=solver, steps=steps, form=form)
        true_mean, true_var = Gaussian(MEAN, SD, path).moments(interval[1])
        return abs(mean - true_mean.item()), abs(sd - true_var.sqrt().item())

    coarse, fine = errors(400), errors(800)
    assert max(fine) < 0.02
    if form == "sbdm" and path != "vp":  # whose noise grows without bound towards t = 0: the order is not seen yet
        assert max(fine) < max(coarse)
        return
    order = {"euler-maruyama": 1, "heun-sde": 2}[solver]
    assert fine[0] < 1e-7 or math.log2(coarse[0] / fine[0]) > order - 0.3
    assert fine[1] < 1e-6 or math.log2(coarse[1] / fine[1]) > 0.7


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_predictions_are_the_same_sde(path, prediction):
    mean, sd, (start, _) = moments(path, prediction, exact=False)
    same_mean, same_sd, (same_start, _) = moments(path, "velocity", exact=False)
    tolerance = 1e-8 if start == same_start else 0.02
    assert (mean, sd) == pytest.approx((same_mean, same_sd), abs=tolerance)


@pytest.mark.parametrize("norm", [0.25, 4.0])
def test_more_noise_or_less_has_the_same_marginals(norm):
    mean, sd, interval = moments("linear", "velocity", steps=1000, norm=norm)
    true_mean, true_var = Gaussian(MEAN, SD, "linear").moments(interval[1])
    assert (mean, sd) == pytest.approx((true_mean.item(), true_var.sqrt().item()), abs=0.01)


def test_the_forms_are_those_of_sit():
    t = torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)
    c = coefficients_at("linear", t.flatten(), t)
    expected = {
        "constant": torch.full_like(t, 2.0),
        "sbdm": 2 * (1 - t) / t,
        "sigma": 2 * (1 - t),
        "linear": 2 * (1 - t),
        "decreasing": 0.25 * (2 * torch.cos(torch.pi * t) + 1) ** 2,
        "increasing-decreasing": 2 * torch.sin(torch.pi * t) ** 2,
    }
    assert set(expected) == set(FORMS)
    for form, value in expected.items():
        torch.testing.assert_close(diffusion_coefficient(form, 2.0, t, c), value)


@pytest.mark.parametrize("path", PATHS)
def test_last_steps(path):
    """From x_t at t = 0.96: `tweedie` gives E[x1 | x_t], whose sd is that of the regression; `euler` and `mean` cross
    the rest up to what one step errs; `none` leaves x_t."""
    data = Gaussian(MEAN, SD, path)
    found = {last: moments(path, "velocity", steps=500, last=last)[:2] for last in ("none", "tweedie", "euler", "mean")}
    mean, var = (value.item() for value in data.moments(0.96))
    alpha = coefficients_at(path, torch.tensor([0.96], dtype=torch.float64), torch.zeros(1)).alpha.item()
    assert found["none"] == pytest.approx((mean, var**0.5), abs=4e-3)
    assert found["tweedie"] == pytest.approx((MEAN, alpha * SD**2 / var**0.5), abs=4e-3)
    assert found["euler"] == pytest.approx((MEAN, SD), abs=8e-3)
    assert found["mean"] == pytest.approx((MEAN, SD), abs=3e-2)


def test_the_noise_is_asked_for_once_a_step():
    seen = []

    def step_noise(step):
        seen.append(step)
        return torch.zeros(2, 1)

    train = Train()
    for solver, evaluations, steps in (("euler-maruyama", 11, 10), ("heun-sde", 21, 10)):
        seen.clear()
        sampler = sampler_of(train, Sample(solver=solver, evaluations=evaluations))
        _, spent = solve_sde(Gaussian(0, 1, "linear"), torch.zeros(2, 1), objective=objective_of(train),
                             sampler=sampler, step_noise=step_noise)  # fmt: skip
        assert seen == list(range(steps))
        assert spent == evaluations
