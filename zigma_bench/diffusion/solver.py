"""From noise to images: the ODE dx/dt = v(x, t) from t = 0 to t = 1, by torchdiffeq.

`euler` takes one evaluation a step, `heun` two (torchdiffeq's heun2), `dopri5` chooses its steps from the error of the
whole batch, so its images depend a little on the batch they are drawn in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
Solver = Literal["euler", "heun", "dopri5"]
EVALUATIONS_A_STEP = {"euler": 1, "heun": 2}
METHODS = {"euler": "euler", "heun": "heun2", "dopri5": "dopri5"}


def solve(
    network: Network,
    noise: Tensor,
    *,
    solver: Solver,
    evaluations: int | None,
    rtol: float,
    atol: float,
) -> tuple[Tensor, int]:
    """The images [B, C, H, W] that noise of the same shape flows to, and the evaluations that were spent.

    `evaluations` is exact for euler and heun (even for heun), and None for dopri5, which takes rtol and atol instead.
    """
    from torchdiffeq import odeint

    spent = 0

    def field(t: Tensor, x: Tensor) -> Tensor:
        nonlocal spent
        spent += 1
        return network(x, t.expand(x.shape[0]))

    ends = torch.tensor([0.0, 1.0], device=noise.device)
    options: dict[str, object] = {}
    if solver != "dopri5":
        assert evaluations is not None and evaluations % EVALUATIONS_A_STEP[solver] == 0, (solver, evaluations)
        steps = evaluations // EVALUATIONS_A_STEP[solver]
        options["grid_constructor"] = lambda f, y, t: torch.linspace(0, 1, steps + 1, device=t.device)
    with torch.no_grad():
        images = odeint(field, noise, ends, method=METHODS[solver], rtol=rtol, atol=atol, options=options)[-1]
    assert evaluations is None or spent == evaluations, (spent, evaluations)
    return images, spent
