"""Solvers on fields with a known flow, and the path's own algebra."""

from __future__ import annotations

import math

import pytest
import torch

from zigma_bench.diffusion.objective import velocity_loss
from zigma_bench.diffusion.path import interpolate, velocity
from zigma_bench.diffusion.solver import solve


def gaussian_velocity(mean, sd):
    """The exact velocity of the linear path from N(0, 1) to N(mean, sd^2): E[x1 - x0 | x_t = x]."""

    def field(x, t):
        t = t[:, None]
        variance = t**2 * sd**2 + (1 - t) ** 2
        return mean + (t * sd**2 - (1 - t)) / variance * (x - t * mean)

    return field


@pytest.mark.parametrize(
    ("solver", "evaluations", "tolerance"), [("euler", 400, 2e-2), ("heun", 100, 2e-3), ("dopri5", None, 2e-3)]
)
def test_gaussian_data_is_reached(solver, evaluations, tolerance):
    """The flow of a Gaussian to a Gaussian is x -> mean + sd x."""
    noise = torch.linspace(-2, 2, 9)[:, None]
    images, spent = solve(
        gaussian_velocity(3.0, 0.5), noise, solver=solver, evaluations=evaluations, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(images, 3.0 + 0.5 * noise, atol=tolerance, rtol=0)
    assert spent == evaluations or (solver == "dopri5" and spent > 6)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver, order):
    noise = torch.ones(1, 1, dtype=torch.float64)

    def error(evaluations):
        out, _ = solve(lambda x, t: x, noise, solver=solver, evaluations=evaluations, rtol=1, atol=1)
        return abs(out.item() - math.e)

    steps = 40 * order
    assert error(steps) / error(2 * steps) == pytest.approx(2**order, rel=0.1)


def test_evaluations_are_exact():
    for solver, evaluations in (("euler", 1), ("euler", 37), ("heun", 2), ("heun", 38)):
        calls: list[torch.Tensor] = []

        def field(x, t, calls=calls):
            calls.append(t)
            return x

        solve(field, torch.ones(3, 1), solver=solver, evaluations=evaluations, rtol=1, atol=1)
        assert len(calls) == evaluations
        assert calls[0].shape == (3,)


def test_the_path_runs_from_noise_to_data():
    x0, x1 = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    assert torch.equal(interpolate(x0, x1, torch.zeros(2)), x0)
    assert torch.equal(interpolate(x0, x1, torch.ones(2)), x1)
    slope = (interpolate(x0, x1, torch.full((2,), 0.75)) - interpolate(x0, x1, torch.full((2,), 0.25))) / 0.5
    torch.testing.assert_close(slope, velocity(x0, x1))


def test_the_loss_is_zero_at_the_velocity_and_counts_each_image():
    x0, x1, t = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.rand(4)
    assert velocity_loss(lambda x, t: x1 - x0, x1, x0, t).abs().max() == 0
    off = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None, None]
    torch.testing.assert_close(velocity_loss(lambda x, t: x1 - x0 + off, x1, x0, t), off.flatten() ** 2)
