"""The losses: known values, weights, and a minimum at the exact network for Gaussian data."""

from __future__ import annotations

import pytest
import torch
from gaussian import PATHS, PREDICTIONS, Gaussian

from zigma_bench.diffusion.convert import to_score, to_velocity
from zigma_bench.diffusion.objective import loss_weight, prediction_loss
from zigma_bench.diffusion.path import coefficients_at, interpolate, target_velocity
from zigma_bench.plan.diffusion import Objective, objective_of
from zigma_bench.suite import Train

MEAN, SD = 0.5, 0.3
WEIGHTED = [("velocity", "none")] + [(p, w) for p in ("score", "noise") for w in ("none", "velocity", "likelihood")]


def draws(count, interval, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, count, 1, dtype=torch.float64, generator=rng)
    start, end = interval
    return MEAN + SD * x1, x0, start + (end - start) * torch.rand(count, dtype=torch.float64, generator=rng)


def objective(path, prediction, weighting="none"):
    interval = objective_of(Train(path=path, prediction=prediction, weighting=weighting)).interval
    return Objective(path, prediction, weighting, interval)


def test_the_loss_is_zero_at_the_velocity_and_counts_each_image():
    x0, x1, t = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.rand(4)
    assert prediction_loss(lambda x, t: x1 - x0, x1, x0, t).abs().max() == 0
    off = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None, None]
    torch.testing.assert_close(prediction_loss(lambda x, t: x1 - x0 + off, x1, x0, t), off.flatten() ** 2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("prediction", "weighting"), WEIGHTED)
def test_the_loss_is_least_at_what_is_exact(path, prediction, weighting):
    """Its derivative by a change of the network towards 1, x and t is zero there, to within the noise of the draws."""
    goal = objective(path, prediction, weighting)
    x1, x0, t = draws(100_000, goal.interval)
    exact = Gaussian(MEAN, SD, path, prediction)

    def slope(network, direction):
        """Mean and standard error of the loss's derivative along a direction, by a central difference (exact: the
        loss is a parabola), over draws whose weight is bounded."""
        moved = [
            prediction_loss(lambda x, t, e=e: (network(x, t) + e * direction(x, t)).double(), x1, x0, t, goal).double()
            for e in (1e-2, -1e-2)
        ]
        slopes = (moved[0] - moved[1]) / 2e-2
        return slopes.mean().item(), (slopes.std() / len(slopes) ** 0.5).item()

    for direction in (lambda x, t: torch.ones_like(x), lambda x, t: x, lambda x, t: t[:, None]):
        mean, error = slope(exact, direction)
        assert abs(mean) < 5 * error
    mean, error = slope(lambda x, t: exact(x, t) + 1.0, lambda x, t: torch.ones_like(x))
    assert mean > 10 * error


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", ["score", "noise"])
def test_weights_make_another_error_of_it(path, prediction):
    """`velocity`: the error of the velocity that the network implies. `likelihood`: beta times that of the score."""
    x1, x0, t = draws(50, (0.05, 0.95))
    said = torch.randn(50, 1, dtype=torch.float64)
    x = interpolate(x0, x1, t, path)
    c = coefficients_at(path, t, x)
    found = {w: prediction_loss(lambda x, t: said, x1, x0, t, Objective(path, prediction, w, (0, 1)))
             for w in ("none", "velocity", "likelihood")}  # fmt: skip
    of_velocity = (to_velocity(prediction, said, x, c) - target_velocity(x0, x1, t, path)).square().mean(1)
    of_score = c.beta.flatten() * (to_score(prediction, said, x, c) + x0 / c.sigma).square().mean(1)
    torch.testing.assert_close(found["velocity"], of_velocity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["likelihood"], of_score, rtol=1e-4, atol=1e-5)
    assert (found["none"] != found["velocity"]).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("prediction", "weighting"), WEIGHTED)
def test_the_loss_is_finite_on_all_of_its_times(path, prediction, weighting):
    goal = objective(path, prediction, weighting)
    t = torch.tensor(goal.interval, dtype=torch.float32)
    x0, x1 = torch.randn(2, 2, 1, 4, 4)
    assert prediction_loss(lambda x, t: torch.zeros_like(x), x1, x0, t, goal).isfinite().all()


def test_no_weight_is_one():
    c = coefficients_at("gvp", torch.rand(3), torch.zeros(3, 1, 2, 2))
    assert torch.equal(loss_weight("none", c), torch.ones(3, 1, 1, 1))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_images_are_weighed_apart(prediction):
    """[B] in, [B] out: the weight of one image is not spread over the others."""
    x0, x1, t = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), torch.tensor([0.1, 0.5, 0.9])
    weighting = "none" if prediction == "velocity" else "velocity"
    goal = objective("gvp", prediction, weighting)
    whole = prediction_loss(lambda x, t: x, x1, x0, t, goal)
    alone = [prediction_loss(lambda x, t: x, x1[i : i + 1], x0[i : i + 1], t[i : i + 1], goal) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone))
