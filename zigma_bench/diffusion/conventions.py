"""Convert between the time conventions of other papers and codebases and ours.

                                   noise      data     time input of the network
    here, ZigMa's and SiT's code   t = 0      t = 1    t (the time embedding uses 1000 t in ZigMa, t in SiT)
    DiT's and ADM's code           n = 999    n = 0    n
    ZigMa's and SiT's papers       t = 1      t = 0

A network always gets the time of its own code. `vp_noise_of_dit` wraps a network with DiT's weights as a noise
prediction on our path `vp`, so that every sampler can run it; `ddpm.dit_schedule` runs it at exactly DiT's steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zigma_bench.diffusion.ddpm import STEPS, dit_schedule
from zigma_bench.diffusion.path import vp_minus_log_alpha2, vp_time


def vp_noise_of_dit(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a DiT as `(x [B, C, H, W], t [B], *condition)` -> noise on the path vp. A learned sigma is dropped."""
    return lambda x, t, *condition: network(x, step_of_time(t), *condition)[:, : x.shape[1]]


def from_paper(t: Tensor) -> Tensor:
    """Convert a time of SiT's or ZigMa's paper to ours, or ours to theirs."""
    return 1 - t


def step_of_time(t: Tensor) -> Tensor:
    """The step of DiT's diffusion, from 0 to 999 and possibly fractional, with the alpha-bar of the path vp at t."""
    logs = torch.from_numpy(-np.log(dit_schedule().alpha_bar)).to(t.device)
    wanted = vp_minus_log_alpha2(t.double())
    above = torch.searchsorted(logs, wanted.contiguous()).clamp(1, STEPS - 1)
    below = above - 1
    share = (wanted - logs[below]) / (logs[above] - logs[below])
    return (below + share).clamp(0, STEPS - 1).to(t.dtype)


def time_of_step(n: Tensor) -> Tensor:
    """The t at which the path vp has the alpha-bar of DiT's step n, float64. Slightly below 0 for the last steps."""
    logs = torch.from_numpy(-np.log(dit_schedule().alpha_bar)).to(n.device)
    return vp_time(logs[n])
