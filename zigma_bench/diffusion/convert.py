"""Convert between the predictions of a network: velocity, score, noise and data.

All are expectations conditional on x_t = x, related by two equations (SiT section 2; c is `path.Coefficients` at t):

    x = alpha E[x1] + sigma E[x0]        v = alpha' E[x1] + sigma' E[x0]      score = -E[x0] / sigma             (1)
    E[x0] = (alpha' x - alpha v) / W     E[x1] = (sigma v - sigma' x) / W     W = alpha' sigma - alpha sigma'    (2)
    v = (alpha' / alpha) x + (sigma' - (alpha' / alpha) sigma) E[x0]                                             (3)

(3) divides by alpha, which is 0 at t = 0 on linear and gvp; the score divides by sigma, which is 0 at t = 1. The
intervals of `plan/diffusion.py` stay away from both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor

from zigma_bench.diffusion.path import Coefficients, coefficients_at, vp_time
from zigma_bench.suite import PathName, Prediction

Network = Callable[..., Tensor]  # (x, t, *condition) -> prediction


def to_noise(prediction: Prediction, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
    """E[x0 | x_t = x] from the output of a network of this prediction."""
    if prediction == "noise":
        return output
    if prediction == "score":
        return -c.sigma * output
    if prediction == "velocity":
        return (c.d_alpha * x - c.alpha * output) / c.wronskian
    assert_never(prediction)


def to_data(prediction: Prediction, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
    """E[x1 | x_t = x]."""
    if prediction == "velocity":
        return (c.sigma * output - c.d_sigma * x) / c.wronskian
    return (x - c.sigma * to_noise(prediction, output, x, c)) / c.alpha


def to_velocity(prediction: Prediction, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
    """v(x, t), by eq. 3."""
    if prediction == "velocity":
        return output
    ratio = c.d_alpha / c.alpha
    return ratio * x + (c.d_sigma - ratio * c.sigma) * to_noise(prediction, output, x, c)


def to_score(prediction: Prediction, output: Tensor, x: Tensor, c: Coefficients) -> Tensor:
    """grad log p_t(x)."""
    return output if prediction == "score" else -to_noise(prediction, output, x, c) / c.sigma


def velocity_of(network: Network, path: PathName, prediction: Prediction) -> Network:
    """Wrap a network of any prediction as a velocity along its path; a velocity network is returned unchanged."""
    if prediction == "velocity":
        return network
    return lambda x, t, *condition: to_velocity(prediction, network(x, t, *condition), x, coefficients_at(path, t, x))


def linear_velocity_of(network: Network, path: PathName, prediction: Prediction) -> Network:
    """Wrap a network that was trained on any path as a velocity along the *linear* path.

    All paths pass through the same mixtures of data and noise, at different times and scales. At the time when
    alpha / sigma equals that of the linear path at t, x_path = (alpha / t) x. There the network predicts E[x1], and
    v = (E[x1] - x) / (1 - t). Valid for t in (0, 1); on vp for t above 0.0066, where that path begins.
    """
    if path == "linear":
        return velocity_of(network, path, prediction)

    def run(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        time = matched_time(path, t)
        c = coefficients_at(path, time, x)
        t_ = t.reshape(c.alpha.shape)
        x_path = c.alpha / t_ * x
        data = to_data(prediction, network(x_path, time, *condition), x_path, c)
        return (data - x) / (1 - t_)

    return run


def matched_time(path: PathName, t: Tensor) -> Tensor:
    """The time at which a path has the alpha / sigma of the linear path at t in (0, 1)."""
    if path == "linear":
        return t
    if path == "gvp":
        return torch.atan2(t, 1 - t) * (2 / torch.pi)
    if path == "vp":
        return vp_time(torch.log1p(((1 - t) / t) ** 2))
    assert_never(path)
