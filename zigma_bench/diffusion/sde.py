"""Sample with an SDE that has the same marginals as the ODE for any diffusion D.

    dx = (v + D s) dt + sqrt(2 D) dW       (1)   v the velocity, s the score, D(t) >= 0 a free choice

(SiT, section 2: its w_t is 2 D; our time runs from noise to data.) The forms of D, each multiplied by a norm
(willisma/SiT transport/path.py):

    constant    1                    linear                   1 - t
    sbdm        beta(t)              decreasing               (norm cos(pi t) + 1)^2 / 4
    sigma       sigma(t)             increasing-decreasing    sin(pi t)^2

`euler-maruyama` takes one evaluation per step. `heun-sde` takes two: it adds the step's noise first, then makes a step
of Heun's method in the drift (order 2 in the mean; both are of order 1 in distribution).
The score is singular at t = 1, so the steps stop earlier, and a last step without noise covers the rest, h = 1 - t:
`mean` x + (v + D s) h; `euler` x + v h; `tweedie` E[x1 | x]; `none` x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from zigma_bench.diffusion.convert import Network, to_data, to_score, to_velocity
from zigma_bench.diffusion.path import Coefficients, coefficients_at
from zigma_bench.plan.diffusion import Objective, Sampler
from zigma_bench.suite import DiffusionForm

StepNoise = Callable[[int], Tensor]  # step 0, 1, ... -> Gaussian noise in the shape of the images


def diffusion_coefficient(form: DiffusionForm, norm: float, t: Tensor, c: Coefficients) -> Tensor:
    """D(t), in the shape of t. The coefficients have the same shape."""
    if form == "constant":
        return torch.full_like(t, norm)
    if form == "sbdm":
        return norm * c.beta
    if form == "sigma":
        return norm * c.sigma
    if form == "linear":
        return norm * (1 - t)
    if form == "decreasing":
        return (norm * torch.cos(math.pi * t) + 1) ** 2 / 4
    if form == "increasing-decreasing":
        return norm * torch.sin(math.pi * t) ** 2
    assert_never(form)


@dataclass
class ReverseField:
    """The drift and D of eq. 1 for a network. Counts its evaluations."""

    network: Network
    objective: Objective
    form: DiffusionForm
    norm: float
    spent: int = 0

    def predict(self, x: Tensor, t: float) -> tuple[Tensor, Coefficients, Tensor]:
        """The output of the network at time t, the coefficients of the path, and D."""
        self.spent += 1
        times = torch.full((len(x),), t, device=x.device, dtype=x.dtype)
        c = coefficients_at(self.objective.path, times, x)
        return self.network(x, times), c, diffusion_coefficient(self.form, self.norm, times.reshape(c.alpha.shape), c)

    def drift(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """v + D s, and D."""
        output, c, D = self.predict(x, t)
        prediction = self.objective.prediction
        return to_velocity(prediction, output, x, c) + D * to_score(prediction, output, x, c), D


def solve_sde(
    network: Network, noise: Tensor, *, objective: Objective, sampler: Sampler, step_noise: StepNoise
) -> tuple[Tensor, int]:
    """Turn noise [B, C, H, W] into images of the same shape, and count the evaluations of the network.

    Spends exactly `sampler.evaluations`: on steps of equal width, plus one for the last step unless it is `none`.
    """
    assert sampler.evaluations is not None and sampler.interval is not None and sampler.last_step is not None
    assert sampler.diffusion is not None and sampler.diffusion_norm is not None
    field = ReverseField(network, objective, sampler.diffusion, sampler.diffusion_norm)
    steps = sampler.evaluations - (sampler.last_step != "none")
    if sampler.solver == "heun-sde":
        assert steps % 2 == 0, sampler
        steps //= 2
    start, end = sampler.interval
    h = (end - start) / steps
    x = noise
    with torch.no_grad():
        for step in range(steps):
            move = _heun if sampler.solver == "heun-sde" else _euler_maruyama
            x = move(field, x, start + step * h, h, step_noise(step))
        x = _last_step(field, x, end, sampler)
    assert field.spent == sampler.evaluations, (field.spent, sampler)
    return x, field.spent


def _euler_maruyama(field: ReverseField, x: Tensor, t: float, h: float, z: Tensor) -> Tensor:
    drift, D = field.drift(x, t)
    return x + h * drift + torch.sqrt(2 * h * D) * z


def _heun(field: ReverseField, x: Tensor, t: float, h: float, z: Tensor) -> Tensor:
    times = torch.full((len(x),), t, device=x.device, dtype=x.dtype)
    c = coefficients_at(field.objective.path, times, x)
    D = diffusion_coefficient(field.form, field.norm, times.reshape(c.alpha.shape), c)
    noisy = x + torch.sqrt(2 * h * D) * z
    first, _ = field.drift(noisy, t)
    second, _ = field.drift(noisy + h * first, t + h)
    return noisy + h / 2 * (first + second)


def _last_step(field: ReverseField, x: Tensor, t: float, sampler: Sampler) -> Tensor:
    last = sampler.last_step
    if last == "none":
        return x
    if last == "mean":
        return x + (1 - t) * field.drift(x, t)[0]
    output, c, _ = field.predict(x, t)
    if last == "euler":
        return x + (1 - t) * to_velocity(field.objective.prediction, output, x, c)
    if last == "tweedie":
        return to_data(field.objective.prediction, output, x, c)
    raise AssertionError(last)
