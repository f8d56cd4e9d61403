"""Other people's times, mapped to the one here in one place.

                                   noise      data     what a network of theirs is told
    here, ZigMa's and SiT's code   t = 0      t = 1    t (whose sinusoids are of 1000 t in ZigMa, of t in SiT)
    DiT's and ADM's code           n = 999    n = 0    n
    ZigMa's and SiT's papers       t = 1      t = 0

A network is told its own code's time: `vp_noise_of_dit` makes of one with DiT's weights one for the path `vp` here, so
that every sampler runs it; `ddpm.dit_schedule` runs it at exactly DiT's own steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zigma_bench.diffusion.ddpm import STEPS, dit_schedule
from zigma_bench.diffusion.path import vp_minus_log_alpha2, vp_time


def vp_noise_of_dit(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`(x [B, C, H, W], t [B], *y)` to the noise on the path vp, by a network of DiT's steps; a sigma is cut off."""
    return lambda x, t, *y: network(x, step_of_time(t), *y)[:, : x.shape[1]]


def from_paper(t: Tensor) -> Tensor:
    """Our time for a time of SiT's or ZigMa's paper, and the other way round."""
    return 1 - t


def step_of_time(t: Tensor) -> Tensor:
    """The step of DiT's diffusion, whole or between two, with the alpha-bar of the path vp at t; from 0 to 999."""
    logs = torch.from_numpy(-np.log(dit_schedule().alpha_bar)).to(t.device)
    wanted = vp_minus_log_alpha2(t.double())
    above = torch.searchsorted(logs, wanted.contiguous()).clamp(1, STEPS - 1)
    below = above - 1
    share = (wanted - logs[below]) / (logs[above] - logs[below])
    return (below + share).clamp(0, STEPS - 1).to(t.dtype)


def time_of_step(n: Tensor) -> Tensor:
    """The t at which the path vp has the alpha-bar of DiT's step n; a little below 0 for the last few. float64."""
    logs = torch.from_numpy(-np.log(dit_schedule().alpha_bar)).to(n.device)
    return vp_time(logs[n])
