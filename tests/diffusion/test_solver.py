"""Solvers of the ODE on known flows: their result, their order, and their number of evaluations."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian import PATHS, PREDICTIONS, Gaussian

from zigma_bench.diffusion.convert import velocity_of
from zigma_bench.diffusion.solver import solve_ode
from zigma_bench.plan.diffusion import sampler_of
from zigma_bench.suite import Sample, Train


@pytest.mark.parametrize(
    ("solver", "evaluations", "tolerance"), [("euler", 400, 2e-2), ("heun", 100, 2e-3), ("dopri5", None, 2e-3)]
)
def test_gaussian_data_is_reached(solver, evaluations, tolerance):
    """The flow of a Gaussian to a Gaussian is x -> mean + sd x."""
    noise = torch.linspace(-2, 2, 9)[:, None]
    network = Gaussian(3.0, 0.5, "linear")
    images, spent = solve_ode(network, noise, solver=solver, evaluations=evaluations, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(images, 3.0 + 0.5 * noise, atol=tolerance, rtol=0)
    assert spent == evaluations or (solver == "dopri5" and spent > 6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("dopri5", None)])
def test_every_path_and_prediction_is_carried_along_at_the_order_of_the_solver(path, prediction, solver, order):
    """The flow keeps a Gaussian's quantiles: x moves as (x - mean) / sd stays, over the default interval."""
    data = Gaussian(0.5, 0.7, path)
    interval = sampler_of(Train(path=path, prediction=prediction), Sample(solver=solver)).interval
    (mean, var), (end_mean, end_var) = (data.moments(t) for t in interval)
    noise = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    expected = end_mean + (end_var / var).sqrt() * (noise - mean)
    field = velocity_of(data.saying(prediction), path, prediction)

    def error(evaluations):
        given = {"rtol": 1e-6, "atol": 1e-8} if solver == "dopri5" else {}
        images, _ = solve_ode(field, noise, solver=solver, evaluations=evaluations, interval=interval, **given)
        return (images - expected).abs().max().item()

    if order is None:
        assert error(None) < 1e-4
    else:
        coarse, fine = error(400), error(800)
        assert fine < 2e-2
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver, order):
    noise = torch.ones(1, 1, dtype=torch.float64)

    def error(evaluations):
        out, _ = solve_ode(lambda x, t: x, noise, solver=solver, evaluations=evaluations)
        return abs(out.item() - math.e)

    steps = 40 * order
    assert error(steps) / error(2 * steps) == pytest.approx(2**order, rel=0.1)


def test_evaluations_are_exact():
    for solver, evaluations in (("euler", 1), ("euler", 37), ("heun", 2), ("heun", 38)):
        calls: list[torch.Tensor] = []

        def field(x, t, calls=calls):
            calls.append(t)
            return x

        solve_ode(field, torch.ones(3, 1), solver=solver, evaluations=evaluations)
        assert len(calls) == evaluations
        assert calls[0].shape == (3,)


def test_no_time_outside_of_the_interval_is_asked_for():
    for solver in ("euler", "heun", "dopri5"):
        seen: list[float] = []

        def field(x, t, seen=seen):
            seen.append(t[0].item())
            return x

        evaluations = None if solver == "dopri5" else 10
        solve_ode(
            field, torch.ones(1, 1), solver=solver, evaluations=evaluations, rtol=1e-3, atol=1e-3, interval=(0.1, 0.9)
        )
        assert min(seen) == pytest.approx(0.1)
        assert max(seen) <= 0.9 + 1e-6
