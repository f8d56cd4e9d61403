"""Guidance with Gaussian conditions, for which the result is known."""

from __future__ import annotations

import pytest
import torch
from gaussian import Gaussian

from zigma_bench.diffusion.convert import to_noise
from zigma_bench.diffusion.guidance import with_guidance
from zigma_bench.diffusion.path import coefficients_at
from zigma_bench.diffusion.solver import solve_ode
from zigma_bench.suite import Guidance

NONE = 0.0  # the null condition has the mean 0


def network(x, t, y):
    """The velocity for data N(y, 0.5^2): the condition is the mean."""
    means = y.reshape(-1, *[1] * (x.ndim - 1))
    return Gaussian(0.0, 0.5, "linear")(x - t.reshape(means.shape) * means, t) + means


def run(guidance, y=1.0, count=4):
    return with_guidance(network, torch.full((count,), y), torch.full((count,), NONE), guidance)


X, T = torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.4, 0.6, 0.9])


def test_a_scale_of_one_is_the_condition_alone():
    torch.testing.assert_close(run(Guidance(scale=1.0))(X, T), network(X, T, torch.ones(4)))


@pytest.mark.parametrize("scale", [0.5, 1.5, 4.0])
def test_equally_wide_gaussians_are_guided_to_a_mean_further_out(scale):
    """Their scores differ by a constant, so guidance moves the mean away from the null condition by scale times the
    distance."""
    noise = torch.linspace(-1, 1, 4)[:, None]
    images, _ = solve_ode(run(Guidance(scale=scale), y=2.0), noise, solver="heun", evaluations=200)
    torch.testing.assert_close(images, 2.0 * scale + 0.5 * noise, atol=3e-3, rtol=0)


def test_outside_of_the_interval_the_condition_speaks_alone():
    found = run(Guidance(scale=3.0, interval=(0.3, 0.6)))(X, T)
    plain, strong = run(Guidance(scale=1.0))(X, T), run(Guidance(scale=3.0))(X, T)
    torch.testing.assert_close(found[[0, 3]], plain[[0, 3]])
    torch.testing.assert_close(found[[1, 2]], strong[[1, 2]])
    assert not torch.allclose(plain, strong)


def test_the_first_three_channels_alone():
    found = run(Guidance(scale=3.0, channels="first-three"))(X, T)
    torch.testing.assert_close(found[:, :3], run(Guidance(scale=3.0))(X, T)[:, :3])
    torch.testing.assert_close(found[:, 3:], network(X, T, torch.ones(4))[:, 3:])


@pytest.mark.parametrize("channels", ["all", "first-three"])
def test_a_learned_variance_is_not_guided(channels):
    def wide(x, t, y):
        return torch.cat([network(x, t, y), y.reshape(-1, 1, 1, 1).expand_as(x)], dim=1)

    found = with_guidance(wide, torch.full((4,), 7.0), torch.zeros(4), Guidance(scale=3.0, channels=channels))(X, T)
    assert torch.equal(found[:, 4:], torch.full_like(X, 7.0))


def test_velocity_and_noise_are_guided_in_the_same_way():
    def noise(x, t, y):
        return to_noise("velocity", network(x, t, y), x, coefficients_at("linear", t, x))

    y, none = torch.ones(4), torch.zeros(4)
    by_noise = with_guidance(noise, y, none, Guidance(scale=2.5))(X, T)
    by_velocity = with_guidance(network, y, none, Guidance(scale=2.5))(X, T)
    torch.testing.assert_close(
        to_noise("velocity", by_velocity, X, coefficients_at("linear", T, X)), by_noise, atol=1e-5, rtol=1e-5
    )


def test_one_evaluation_runs_the_network_once():
    calls = []

    def counting(x, t, y):
        calls.append(len(x))
        return network(x, t, y)

    with_guidance(counting, torch.ones(4), torch.zeros(4), Guidance(scale=2.0))(X, T)
    assert calls == [8]
