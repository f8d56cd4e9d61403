"""The training loss: the squared error of the prediction, at a random time for each image.

    velocity   |v - (alpha' x1 + sigma' x0)|^2
    noise      w(t) |eps - x0|^2
    score      w(t) |sigma s + x0|^2

The weights w(t) of noise and score (willisma/SiT transport/transport.py), with beta of `path.Coefficients`:
`none` is 1; `velocity` is (beta / sigma)^2, which gives the error of the velocity; `likelihood` is beta / sigma^2,
which gives beta |error of the score|^2, a bound on the likelihood (Song 2021, arXiv 2101.09258).
"""

from __future__ import annotations

from typing import assert_never

from torch import Tensor

from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.path import Coefficients, coefficients_at, interpolate, target_velocity
from zigma_bench.plan.diffusion import LINEAR_VELOCITY, Objective
from zigma_bench.suite import Weighting


def prediction_loss(
    network: Network, x1: Tensor, x0: Tensor, t: Tensor, objective: Objective = LINEAR_VELOCITY
) -> Tensor:
    """The weighted squared error per image, averaged over its pixels: x1, x0 [B, C, H, W], t [B] -> [B], float32."""
    x = interpolate(x0, x1, t, objective.path)
    prediction = network(x, t).float()
    if objective.prediction == "velocity":
        return mean_square(prediction - target_velocity(x0, x1, t, objective.path))
    c = coefficients_at(objective.path, t, x)
    if objective.prediction == "noise":
        loss = mean_square(prediction - x0)
    elif objective.prediction == "score":
        loss = mean_square(c.sigma * prediction + x0)
    else:
        assert_never(objective.prediction)
    return loss if objective.weighting == "none" else loss_weight(objective.weighting, c).flatten() * loss


def loss_weight(weighting: Weighting, c: Coefficients) -> Tensor:
    """w(t), in the shape of the coefficients."""
    if weighting == "none":
        return c.alpha.new_ones(c.alpha.shape)
    if weighting == "velocity":
        return (c.beta / c.sigma) ** 2
    if weighting == "likelihood":
        return c.beta / c.sigma**2
    assert_never(weighting)


def mean_square(error: Tensor) -> Tensor:
    """[B, ...] -> [B]."""
    return error.square().flatten(1).mean(1)
