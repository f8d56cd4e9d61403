"""Gaussian data, for which every prediction of a network is known exactly.

x1 ~ N(m, s^2): x_t = alpha x1 + sigma x0 has mean alpha m and variance alpha^2 s^2 + sigma^2, and
E[x1 | x_t = x] = m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x - alpha m), the regression of x1 on x_t.
"""

from __future__ import annotations

import torch

from zigma_bench.diffusion.path import coefficients_at

PATHS = ("linear", "gvp", "vp")
PREDICTIONS = ("velocity", "score", "noise")


class Gaussian:
    """The exact network for data N(mean, sd^2) on a path, for one of the three predictions."""

    def __init__(self, mean, sd, path, prediction="velocity"):
        self.mean, self.sd, self.path, self.prediction = mean, sd, path, prediction

    def moments(self, t):
        """Mean and variance of x_t."""
        c = coefficients_at(self.path, torch.as_tensor(t, dtype=torch.float64).reshape(-1), torch.zeros(1))
        return c.alpha * self.mean, c.alpha**2 * self.sd**2 + c.sigma**2

    def __call__(self, x, t):
        c = coefficients_at(self.path, t, x)
        variance = c.alpha**2 * self.sd**2 + c.sigma**2
        off = x - c.alpha * self.mean
        data = self.mean + c.alpha * self.sd**2 / variance * off
        noise = c.sigma / variance * off  # the regression of x0 on x_t
        return {
            "velocity": c.d_alpha * data + c.d_sigma * noise,
            "score": -off / variance,
            "noise": noise,
            "data": data,
        }[self.prediction]

    def saying(self, prediction):
        return Gaussian(self.mean, self.sd, self.path, prediction)


def affine_moments(solve, steps):
    """Mean and standard deviation of what a sampler with an affine network makes of normal noise, without sampling.

    The result is affine in the first noise and in the noise of each step. Row 0 is given none, row 1 the first noise 1,
    row 2 + k the noise 1 in step k; so the rows less row 0 are the coefficients, whose squares add up to the variance.
    """
    first = torch.zeros(steps + 2, 1, dtype=torch.float64)
    first[1] = 1

    def step_noise(step):
        noise = torch.zeros(steps + 2, 1, dtype=torch.float64)
        noise[2 + step] = 1
        return noise

    images, spent = solve(first, step_noise)
    coefficients = images[1:] - images[0]
    return images[0].item(), coefficients.square().sum().sqrt().item(), spent
