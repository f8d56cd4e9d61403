"""The paths: their ends, their derivatives, and the conversion of times between them."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian import PATHS

from zigma_bench.diffusion.convert import matched_time
from zigma_bench.diffusion.path import interpolate, path_coefficients, target_velocity, vp_minus_log_alpha2, vp_time

TIMES = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_runs_from_noise_to_data(path):
    start, end = (path_coefficients(path, torch.tensor(t, dtype=torch.float64)) for t in (0.0, 1.0))
    assert start.sigma == pytest.approx(1, abs=3e-5)
    assert start.alpha == pytest.approx(math.exp(-5.025) if path == "vp" else 0)
    assert (end.alpha.item(), end.sigma.item()) == pytest.approx((1, 0), abs=1e-15)
    along = path_coefficients(path, TIMES)
    ratio = along.alpha / along.sigma
    assert (ratio.diff() > 0).all()
    assert (along.wronskian > 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_are_those_of_the_coefficients(path):
    t = TIMES.clone().requires_grad_()
    c = path_coefficients(path, t)
    (d_alpha,) = torch.autograd.grad(c.alpha.sum(), t, retain_graph=True)
    (d_sigma,) = torch.autograd.grad(c.sigma.sum(), t)
    torch.testing.assert_close(c.d_alpha.detach(), d_alpha)
    torch.testing.assert_close(c.d_sigma.detach(), d_sigma)


@pytest.mark.parametrize("path", ["gvp", "vp"])
def test_what_preserves_the_variance(path):
    c = path_coefficients(path, TIMES)
    torch.testing.assert_close(c.alpha**2 + c.sigma**2, torch.ones_like(TIMES))


def test_beta_is_half_the_noise_rate_of_the_diffusion():
    """Linear (1 - t) / t, gvp (pi / 2) cot(pi t / 2), and on vp half the rate."""
    expected = {
        "linear": (1 - TIMES) / TIMES,
        "gvp": math.pi / 2 / torch.tan(math.pi / 2 * TIMES),
        "vp": (0.1 + 19.9 * (1 - TIMES)) / 2,
    }
    for path, beta in expected.items():
        torch.testing.assert_close(path_coefficients(path, TIMES).beta, beta)


def test_the_linear_velocity_is_data_less_noise_to_the_bit():
    x0, x1, t = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3), torch.rand(2)
    assert torch.equal(target_velocity(x0, x1, t), x1 - x0)
    assert torch.equal(interpolate(x0, x1, torch.zeros(2)), x0)
    assert torch.equal(interpolate(x0, x1, torch.ones(2)), x1)


@pytest.mark.parametrize("path", PATHS)
def test_the_velocity_is_the_slope_of_the_path(path):
    x0, x1 = torch.randn(2, 4, 1, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    slope = (interpolate(x0, x1, t + 1e-6, path) - interpolate(x0, x1, t - 1e-6, path)) / 2e-6
    torch.testing.assert_close(target_velocity(x0, x1, t, path), slope, rtol=1e-7, atol=1e-7)


def test_the_time_of_vp_is_found_again():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(vp_time(vp_minus_log_alpha2(t)), t)


@pytest.mark.parametrize("path", PATHS)
def test_matched_times_have_the_same_share_of_noise(path):
    c, linear = path_coefficients(path, matched_time(path, TIMES)), path_coefficients("linear", TIMES)
    torch.testing.assert_close(c.alpha / c.sigma, linear.alpha / linear.sigma)
