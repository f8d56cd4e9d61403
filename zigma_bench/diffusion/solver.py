"""From noise to images: the ODE dx/dt = v(x, t) from noise to data (SiT, eq. 2), by torchdiffeq.

`euler` takes one evaluation a step, `heun` two (torchdiffeq's heun2), `dopri5` chooses its steps from the error of the
whole batch, so its images depend a little on the batch they are drawn in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zigma_bench.diffusion.convert import Network
from zigma_bench.suite import Solver

EVALUATIONS_A_STEP = {"euler": 1, "heun": 2}
METHODS = {"euler": "euler", "heun": "heun2", "dopri5": "dopri5"}


def solve(
    network: Network,
    noise: Tensor,
    *,
    solver: Solver,
    evaluations: int | None,
    rtol: float | None = None,
    atol: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
) -> tuple[Tensor, int]:
    """The images [B, C, H, W] that noise of the same shape flows to, and the evaluations that were spent.

    `network(x, t)` is the velocity. `evaluations` is exact for euler and heun (even for heun), and None for dopri5,
    which takes rtol and atol instead. The times of `interval` are crossed; the noise stands for x at its start.
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
        if interval[1] < 1:  # where the field may be infinite further on: dopri5 steps over an end and looks back
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
