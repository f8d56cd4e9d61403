"""Sample images from noise with any sampler, for a network of any prediction."""

from __future__ import annotations

from typing import assert_never

from torch import Tensor

from zigma_bench.diffusion.convert import Network, velocity_of
from zigma_bench.diffusion.ddpm import noise_of, solve_discrete
from zigma_bench.diffusion.sde import StepNoise, solve_sde
from zigma_bench.diffusion.solver import solve_ode
from zigma_bench.plan.diffusion import Objective, Sampler


def sample_from_noise(
    network: Network, noise: Tensor, *, objective: Objective, sampler: Sampler, step_noise: StepNoise
) -> tuple[Tensor, int]:
    """Turn noise [B, C, H, W] into images of the same shape, and count the evaluations of the network.

    `step_noise(i)` is the noise of step i; an ODE solver doesn't call it.
    """
    solver = sampler.solver
    if solver == "euler" or solver == "heun" or solver == "dopri5":
        assert sampler.interval is not None
        return solve_ode(
            velocity_of(network, objective.path, objective.prediction),
            noise,
            solver=solver,
            evaluations=sampler.evaluations,
            rtol=sampler.rtol,
            atol=sampler.atol,
            interval=sampler.interval,
        )
    if solver == "euler-maruyama" or solver == "heun-sde":
        return solve_sde(network, noise, objective=objective, sampler=sampler, step_noise=step_noise)
    if solver == "ddpm" or solver == "ddim":
        assert sampler.evaluations is not None
        return solve_discrete(
            noise_of(network, objective.prediction),
            noise,
            solver=solver,
            evaluations=sampler.evaluations,
            step_noise=step_noise,
            variance=sampler.variance or "small",
            eta=sampler.eta or 0.0,
        )
    assert_never(solver)
