"""The discrete diffusion on Gaussian data: moments, orders, the learned variance, and the spaced steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian import PREDICTIONS, Gaussian, affine_moments

from zigma_bench.diffusion.conventions import from_paper, step_of_time, time_of_step, vp_noise_of_dit
from zigma_bench.diffusion.ddpm import (
    dit_schedule,
    noise_of,
    solve_discrete,
    spaced_steps,
    steps_of,
    vp_schedule,
)
from zigma_bench.diffusion.path import path_coefficients
from zigma_bench.errors import UsageError

MEAN, SD = 0.5, 0.7
EXACT = Gaussian(MEAN, SD, "vp", "noise")


def told_dit(x, n, *y):
    """The exact noise, followed by a sigma, as a network with DiT's steps returns it."""
    return torch.cat([EXACT(x, time_of_step(n.round().long())), torch.full_like(x, 1e9)], dim=1)


def moments(count, **rest):
    """Mean and sd of the images, from noise that has those of x at the first step."""
    schedule = rest.get("schedule") or vp_schedule()
    first = float(schedule.alpha_bar[-1])
    network = rest.pop("network", EXACT)

    def solve(z, step_noise):
        start = first**0.5 * MEAN + (first * SD**2 + 1 - first) ** 0.5 * z
        return solve_discrete(network, start, evaluations=count, step_noise=step_noise, **rest)

    mean, sd, spent = affine_moments(solve, count)
    assert spent == count
    return mean, sd


@pytest.mark.parametrize(
    "rest",
    [
        {"solver": "ddim"},
        {"solver": "ddim", "eta": 0.5},
        {"solver": "ddpm", "variance": "small"},
        {"solver": "ddpm", "variance": "large"},
    ],
    ids=str,
)
@pytest.mark.parametrize("schedule", [vp_schedule, dit_schedule])
def test_gaussian_data_is_reached_at_first_order(rest, schedule):
    """The mean is right at any number of steps; the variance errs by what a step of fixed variance leaves out."""
    network = EXACT if schedule is vp_schedule else told_dit
    errors = []
    for count in (125, 250, 500):
        mean, sd = moments(count, network=network, schedule=schedule(), **rest)
        assert mean == pytest.approx(MEAN, abs=1e-6)
        errors.append(abs(sd - SD))
    assert errors[2] < 0.02
    assert math.log2(errors[0] / errors[1]) > 0.6
    assert math.log2(errors[1] / errors[2]) > 0.6


@pytest.mark.parametrize("count", [2, 5, 50])
def test_the_variance_that_a_network_learns_is_exact_at_any_number_of_steps(count):
    """The variance of x' given x lies between small and large for sd < 1; saying it makes each step exact but the last,
    which adds no noise."""
    asked = list(steps_of(vp_schedule(), count))

    def network(x, t):
        step = min(asked, key=lambda step: abs(step.time - t[0].item()))
        of_data = math.sqrt(step.after) * step.beta / (1 - step.now)
        given = SD**2 * (1 - step.now) / (step.now * SD**2 + 1 - step.now)  # variance of x1 given x
        wanted = step.small + of_data**2 * given
        share = 0.0 if step.after == 1 else math.log(wanted / step.small) / math.log(step.beta / step.small)
        return torch.cat([EXACT(x, t), torch.full_like(x, 2 * share - 1)], dim=1)

    mean, sd = moments(count, solver="ddpm", variance="learned", network=network)
    now = asked[-1].now
    regression = math.sqrt(now) * SD**2 / math.sqrt(now * SD**2 + 1 - now)  # the last step gives E[x1 | x]
    assert mean == pytest.approx(MEAN, abs=1e-9)
    assert sd == pytest.approx(regression, rel=1e-9)


def test_ddim_without_noise_is_the_flow():
    """At eta 0 no noise is drawn, and all quantiles move together."""

    def never(step):
        raise AssertionError(step)

    images, _ = solve_discrete(EXACT, torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], solver="ddim",
                               evaluations=1000, step_noise=never)  # fmt: skip
    gaps = images.diff(dim=0)
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps))
    assert gaps[0].item() == pytest.approx(SD, abs=5e-3)


def test_eta_is_the_share_of_ddpms_noise():
    """What the noise of the one step that has some adds to the image grows with eta itself."""
    added = []
    for eta in (0.25, 0.5, 1.0):
        zeros = torch.zeros(1, 1, dtype=torch.float64)
        images = [solve_discrete(EXACT, zeros, solver="ddim", evaluations=2, eta=eta, step_noise=lambda _, z=z: z)[0]
                  for z in (zeros, zeros + 1)]  # fmt: skip
        added.append((images[1] - images[0]).item())
    assert added == pytest.approx([added[2] / 4, added[2] / 2, added[2]], rel=1e-9)


def test_ddim_at_eta_one_is_ddpm_of_small_variance():
    found = [moments(20, solver="ddim", eta=1.0), moments(20, solver="ddpm", variance="small")]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_any_prediction_will_do(prediction):
    network = noise_of(EXACT.saying(prediction), prediction)
    assert moments(50, solver="ddpm", network=network) == pytest.approx(moments(50, solver="ddpm"), rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 7, 50, 250, 999, 1000])
def test_spaced_steps_are_the_first_the_last_and_even_between(count):
    kept = spaced_steps(count)
    assert (len(kept), kept[0], kept[-1]) == (count, 0, 999)
    gaps = np.diff(kept)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_the_betas_of_spaced_steps_multiply_to_the_same_alpha_bar():
    for count in (10, 1000):
        steps = list(steps_of(dit_schedule(), count))
        assert steps[-1].after == 1
        assert math.prod(1 - step.beta for step in steps) == pytest.approx(dit_schedule().alpha_bar[-1])
        assert all(0 < step.beta < 1 for step in steps)
    assert [step.beta for step in steps][::-1] == pytest.approx(np.linspace(1e-4, 0.02, 1000), rel=1e-6)


@pytest.mark.parametrize(("variance", "channels"), [("learned", 1), ("small", 3)])
def test_another_number_of_channels_is_an_error(variance, channels):
    with pytest.raises(UsageError, match="channels"):
        solve_discrete(lambda x, t: torch.zeros(len(x), channels, 2, 2), torch.zeros(1, 1, 2, 2), solver="ddpm",
                       evaluations=2, step_noise=lambda step: torch.zeros(1, 1, 2, 2), variance=variance)  # fmt: skip


def test_a_variance_that_is_not_asked_for_is_left_out():
    def network(x, t):
        return torch.cat([EXACT(x, t), torch.full_like(x, 1e9)], dim=1)

    assert moments(10, solver="ddpm", network=network) == moments(10, solver="ddpm")
    assert moments(10, solver="ddim", network=network) == moments(10, solver="ddim")


def test_steps_of_dit_and_our_times_contain_equal_shares_of_data():
    n = torch.arange(1000)
    t = time_of_step(n)
    alpha_bar = torch.from_numpy(dit_schedule().alpha_bar)
    torch.testing.assert_close(path_coefficients("vp", t).alpha ** 2, alpha_bar)
    torch.testing.assert_close(step_of_time(t), n.double(), rtol=0, atol=1e-6)
    assert (step_of_time(t.float()) - n).abs().max() < 1e-2
    assert (t - (1 - (n + 1) / 1000)).abs().max() < 0.004
    between = step_of_time((t[:1] + t[1:2]) / 2).item()
    assert 0 < between < 1


def test_a_network_of_dits_steps_is_one_for_the_path_vp():
    t = time_of_step(torch.tensor([0, 10, 500, 999]))
    x = torch.randn(4, 1, dtype=torch.float64)
    torch.testing.assert_close(vp_noise_of_dit(told_dit)(x, t), EXACT(x, t))
    torch.testing.assert_close(vp_noise_of_dit(told_dit)(x, t, torch.zeros(4)), EXACT(x, t))
    ends = step_of_time(torch.tensor([0.0, 1.0]))
    assert 990 < ends[0] < 999
    assert ends[1] == 0


def test_papers_run_the_other_way():
    t = torch.tensor([0.0, 0.3, 1.0])
    torch.testing.assert_close(from_paper(from_paper(t)), t)
    assert from_paper(torch.tensor(0.0)) == 1  # the papers' data
