"""Solve the ODE dx/dt = v(x, t) from noise to data (SiT, eq. 2) with torchdiffeq.

`euler` takes one evaluation per step, `heun` two (torchdiffeq's heun2). `dopri5` adapts its steps to the error of the
whole batch, so an image depends slightly on its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zigma_bench.diffusion.convert import Network
from zigma_bench.suite import Solver

EVALUATIONS_A_STEP = {"euler": 1, "heun": 2}
METHODS = {"euler": "euler", "heun": "heun2", "dopri5": "dopri5"}


def solve_ode(
    network: Network,
    noise: Tensor,
    *,
    solver: Solver,
    evaluations: int | None,
    rtol: float | None = None,
    atol: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
) -> tuple[Tensor, int]:
    """Integrate noise [B, C, H, W] to images of the same shape, and count the evaluations of the network.

    `network(x, t)` predicts the velocity. `evaluations` is exact for euler and heun (even for heun), and None for
    dopri5, which uses rtol and atol instead. The noise is x at the start of `interval`.
    """
    from torchdiffeq import odeint

    spent = 0

    def field(t: Tensor, x: Tensor) -> Tensor:
        nonlocal spent
        spent += 1
        return network(x, t.expand(x.shape[0]))

    ends = torch.tensor(interval, device=noise.device, dtype=noise.dtype)
    options: dict[str, object] = {}
    tolerances: dict[str, float] = {}
    if solver == "dopri5":
        assert rtol is not None and atol is not None
        tolerances = {"rtol": rtol, "atol": atol}
        if interval[1] < 1:  # the field may be infinite beyond the end, and dopri5 would step over it and interpolate
            options["step_t"] = ends[1:]
    else:
        assert evaluations is not None and evaluations % EVALUATIONS_A_STEP[solver] == 0, (solver, evaluations)
        steps = evaluations // EVALUATIONS_A_STEP[solver]
        options["grid_constructor"] = lambda f, y, t: torch.linspace(
            *interval, steps + 1, device=t.device, dtype=t.dtype
        )
    with torch.no_grad():
        images = odeint(field, noise, ends, method=METHODS[solver], options=options, **tolerances)[-1]
    assert evaluations is None or spent == evaluations, (spent, evaluations)
    return images, spent
