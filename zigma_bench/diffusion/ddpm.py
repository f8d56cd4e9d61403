"""Discrete diffusion: DDPM and DDIM, with all 1000 steps or a subset.

a_n is the paper's alpha-bar at step n (0: nearly data, 999: nearly noise) and a is the alpha-bar that the update leads
to (1 after the last). b = 1 - a_n / a is the rate between the two; e and x1 are the predicted noise and data:

    x1 = (x - sqrt(1 - a_n) e) / sqrt(a_n)                                                    (DDPM, below eq. 8)
    ddpm   x' = sqrt(a) b / (1 - a_n) x1 + sqrt(1 - b) (1 - a) / (1 - a_n) x + sqrt(V) z      (DDPM, eq. 7)
           V = b (1 - a) / (1 - a_n) `small`, b `large`, or interpolated by an output of the network, `learned`:
           log V = f log b + (1 - f) log small, f = (output + 1) / 2                          (IDDPM, eq. 15)
    ddim   x' = sqrt(a) x1 + sqrt(1 - a - S^2) e + S z,  S = eta sqrt(small)                  (DDIM, eq. 12 and 16)

The last step adds no noise. Sources: Ho 2020 (arXiv 2006.11239), Nichol 2021 (2102.09672), Song 2020 (2010.02502). As
in facebookresearch/DiT diffusion/, which is ADM's code, a subset of the steps is evenly spaced, and x1 isn't clamped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zigma_bench.diffusion.convert import Network, to_noise
from zigma_bench.diffusion.path import coefficients_at, vp_minus_log_alpha2
from zigma_bench.diffusion.sde import StepNoise
from zigma_bench.errors import UsageError
from zigma_bench.suite import Prediction

STEPS = 1000
LEAST_BETA, MOST_BETA = 1e-4, 0.02  # of DDPM, ADM and DiT


@dataclass(frozen=True)
class Schedule:
    """alpha-bar of every step, float64 [1000], and the time input of the network at that step."""

    alpha_bar: npt.NDArray[np.float64]
    times: npt.NDArray[np.float64]


def dit_schedule() -> Schedule:
    """The linear betas of DDPM, ADM and DiT. The time input of their networks is the step, 0 to 999."""
    alpha_bar = np.cumprod(1 - np.linspace(LEAST_BETA, MOST_BETA, STEPS)).astype(np.float64)
    return Schedule(alpha_bar, np.arange(STEPS, dtype=np.float64))


def vp_schedule() -> Schedule:
    """1000 equal steps of the path vp. Step n is at t = 1 - (n + 1) / 1000; its alpha-bar is close to DiT's."""
    t = 1 - np.arange(1, STEPS + 1) / STEPS
    return Schedule(np.exp(-vp_minus_log_alpha2(torch.from_numpy(t)).numpy()), t)


def spaced_steps(count: int) -> list[int]:
    """`count` of the 1000 steps, evenly spaced from the first to the last and rounded as in ADM's respace.py."""
    assert 2 <= count <= STEPS, count
    stride = (STEPS - 1) / (count - 1)
    return [round(place) for place in itertools.accumulate(itertools.repeat(stride, count - 1), initial=0.0)]


@dataclass(frozen=True)
class DdpmStep:
    """One denoising step from alpha-bar `now` to `after` (1 in the last). `time`: the time input of the network."""

    time: float
    now: float
    after: float

    @property
    def beta(self) -> float:
        return 1 - self.now / self.after

    @property
    def small(self) -> float:
        """The variance of x' given x and x1."""
        return self.beta * (1 - self.after) / (1 - self.now)


def steps_of(schedule: Schedule, count: int) -> Iterator[DdpmStep]:
    """The steps from noise to data."""
    spaced = spaced_steps(count)
    afters = [1.0, *schedule.alpha_bar[spaced].tolist()]
    for index in reversed(range(count)):
        n = spaced[index]
        yield DdpmStep(float(schedule.times[n]), float(schedule.alpha_bar[n]), afters[index])


def solve_discrete(
    network: Network,
    noise: Tensor,
    *,
    solver: Literal["ddpm", "ddim"],
    evaluations: int,
    step_noise: StepNoise,
    schedule: Schedule | None = None,
    variance: Literal["small", "large", "learned"] = "small",
    eta: float = 0.0,
) -> tuple[Tensor, int]:
    """Denoise noise [B, C, H, W] to images of the same shape, and count the evaluations of the network.

    `network(x, t)` predicts the noise. With `learned` its output has twice the channels, and the second half determines
    the variance. The default schedule is `vp_schedule()`. Raises UsageError for any other number of output channels.
    """
    x, spent = noise, 0
    with torch.no_grad():
        for number, step in enumerate(steps_of(schedule or vp_schedule(), evaluations)):
            output = network(x, torch.full((len(x),), step.time, device=x.device, dtype=x.dtype))
            spent += 1
            _check_channels(output, x, learned=solver == "ddpm" and variance == "learned")
            e = output[:, : x.shape[1]]
            x1 = (x - math.sqrt(1 - step.now) * e) / math.sqrt(step.now)
            z = step_noise(number) if spent < evaluations and (solver == "ddpm" or eta > 0) else None
            if solver == "ddpm":
                x = _ddpm(step, x, x1, z, variance, output[:, x.shape[1] :])
            else:
                x = _ddim(step, e, x1, z, eta)
    assert spent == evaluations, (spent, evaluations)
    return x, spent


def noise_of(network: Network, prediction: Prediction) -> Network:
    """Wrap a network of any prediction as a noise prediction on the path vp."""
    if prediction == "noise":
        return network
    return lambda x, t: to_noise(prediction, network(x, t), x, coefficients_at("vp", t, x))


def _ddpm(step: DdpmStep, x: Tensor, x1: Tensor, z: Tensor | None, variance: str, variance_output: Tensor) -> Tensor:
    of_data = math.sqrt(step.after) * step.beta / (1 - step.now)
    of_x = math.sqrt(1 - step.beta) * (1 - step.after) / (1 - step.now)
    mean = of_data * x1 + of_x * x
    if z is None:
        return mean
    if variance == "learned":
        share = (variance_output + 1) / 2
        return mean + torch.exp((share * math.log(step.beta) + (1 - share) * math.log(step.small)) / 2) * z
    return mean + math.sqrt({"small": step.small, "large": step.beta}[variance]) * z


def _ddim(step: DdpmStep, e: Tensor, x1: Tensor, z: Tensor | None, eta: float) -> Tensor:
    variance = eta**2 * step.small
    mean = math.sqrt(step.after) * x1 + math.sqrt(max(1 - step.after - variance, 0.0)) * e
    return mean if z is None else mean + math.sqrt(variance) * z


def _check_channels(output: Tensor, x: Tensor, *, learned: bool) -> None:
    allowed = [2 * x.shape[1]] if learned else [x.shape[1], 2 * x.shape[1]]
    if output.shape[1] not in allowed or output.shape[2:] != x.shape[2:]:
        raise UsageError(
            "the output of the network has the wrong shape for discrete diffusion",
            where="sample",
            expected=f"{' or '.join(map(str, allowed))} channels for images of {tuple(x.shape)}",
            got=tuple(output.shape),
        )
