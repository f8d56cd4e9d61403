"""Probability paths between noise and data: their coefficients alpha(t), sigma(t) and the derivatives of these.

    x_t = alpha(t) x1 + sigma(t) x0        (1)   x0 ~ N(0, I) noise, x1 data, t in [0, 1]: t = 0 noise, t = 1 data
    v_t = alpha'(t) x1 + sigma'(t) x0      (2)   its velocity; ' is the derivative with respect to t

    linear   alpha = t                sigma = 1 - t
    gvp      alpha = sin(pi t / 2)    sigma = cos(pi t / 2)       (generalised variance-preserving)
    vp       alpha = exp(-L / 2)      sigma = sqrt(1 - exp(-L)),  L = (20 - 0.1) (1 - t)^2 / 2 + 0.1 (1 - t)

`vp` is the variance-preserving diffusion with rates from 0.1 to 20 (Song 2021, arXiv 2011.13456, appendix C), with time
from noise to data. At t = 0 it has alpha = 0.0066, and its velocity is infinite at t = 1. (1) is SiT's eq. 1 (arXiv
2401.08740), with time in the direction of SiT's code (willisma/SiT transport/path.py), which is opposite to the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from zigma_bench.suite import PathName

VP_LEAST_RATE, VP_MOST_RATE = 0.1, 20.0


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their derivatives at some times. All have the same shape."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def beta(self) -> Tensor:
        """(alpha' / alpha) sigma^2 - sigma sigma', half the squared diffusion coefficient along the path."""
        return self.d_alpha / self.alpha * self.sigma**2 - self.sigma * self.d_sigma

    @property
    def wronskian(self) -> Tensor:
        """alpha' sigma - alpha sigma' > 0, the determinant for solving (1) and (2) for x0 and x1."""
        return self.d_alpha * self.sigma - self.alpha * self.d_sigma


def path_coefficients(path: PathName, t: Tensor) -> Coefficients:
    """The coefficients of a path at times of any shape."""
    if path == "linear":
        return Coefficients(t, 1 - t, torch.ones_like(t), -torch.ones_like(t))
    if path == "gvp":
        quarter = math.pi / 2
        sin, cos = torch.sin(quarter * t), torch.cos(quarter * t)
        return Coefficients(sin, cos, quarter * cos, -quarter * sin)
    if path == "vp":
        minus_log, rate = vp_minus_log_alpha2(t), VP_LEAST_RATE + (VP_MOST_RATE - VP_LEAST_RATE) * (1 - t)
        alpha, sigma = torch.exp(-minus_log / 2), torch.sqrt(-torch.expm1(-minus_log))
        return Coefficients(alpha, sigma, alpha * rate / 2, -(alpha**2) * rate / (2 * sigma))
    assert_never(path)


def vp_minus_log_alpha2(t: Tensor) -> Tensor:
    """L = -log alpha^2 on the vp path: the integral of its rate from t to 1."""
    return (VP_MOST_RATE - VP_LEAST_RATE) / 2 * (1 - t) ** 2 + VP_LEAST_RATE * (1 - t)


def vp_time(minus_log: Tensor) -> Tensor:
    """The t at which the vp path has this L. Negative if L is above 10.05, its value at t = 0."""
    half = VP_LEAST_RATE / 2
    return 1 - minus_log / (half + torch.sqrt(half**2 + (VP_MOST_RATE - VP_LEAST_RATE) / 2 * minus_log))


def coefficients_at(path: PathName, t: Tensor, like: Tensor) -> Coefficients:
    """The coefficients at t [B], as [B, 1, ...] to broadcast against x [B, ...]."""
    return path_coefficients(path, t.reshape(-1, *[1] * (like.ndim - 1)))


def interpolate(x0: Tensor, x1: Tensor, t: Tensor, path: PathName = "linear") -> Tensor:
    """x_t of eq. 1, for x0, x1 [B, ...] and t [B]."""
    c = coefficients_at(path, t, x1)
    return c.alpha * x1 + c.sigma * x0


def target_velocity(x0: Tensor, x1: Tensor, t: Tensor, path: PathName = "linear") -> Tensor:
    """v_t of eq. 2, for x0, x1 [B, ...] and t [B]; x1 - x0 on the linear path."""
    c = coefficients_at(path, t, x1)
    return c.d_alpha * x1 + c.d_sigma * x0
