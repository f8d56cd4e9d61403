"""The exponential moving average (EMA) of a network's weights, which images are drawn from.

A plain EMA of decay d still holds d^n of the initial weights after n steps: 92% of them after 800 steps at 0.9999.
The warm-up keeps the average near the weights that were trained: the decay of step s, counted from 0, is

    min(d, (1 + s) / (10 + s)), and 0 at s = 0

so the initial weights have no part in the average, and the steps behind it are the last tenth or so of those done
(relative width 0.09 in the terms of EDM2, arXiv 2312.02696, section 3.1), until the decay reaches d: after 890 steps
at 0.99, 89,990 at 0.9999. It is the default of diffusers (huggingface/diffusers, `EMAModel.get_decay` in
src/diffusers/training_utils.py), which takes it from TensorFlow's `ExponentialMovingAverage(num_updates=...)`.

EDM ramps up a half-life in images that is 5% of those seen (NVlabs/edm, training/training_loop.py, `ema_rampup_ratio`);
here it is 7% of the steps. Both are a share of what was done so far, so neither depends on the batch. The rule in steps
is taken because `d` is a decay a step, as in the recipes of DiT, SiT and ZigMa, and because it adds no parameter.
timm's `ModelEmaV3` and diffusers' `use_ema_warmup` take 1 - (1 + s)^(-2/3), made for a million steps: at 100,000, which
most recipes of suites here have, it still averages the last 2,000 steps alone and never reaches 0.9999.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zigma_bench.suite import Train


def ema_decay(recipe: Train, step: int) -> float:
    """The decay of the update that ends step `step`, counted from 0."""
    if not recipe.ema_warmup:
        return recipe.ema
    return min(recipe.ema, (1 + step) / (10 + step)) if step > 0 else 0.0


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float | Tensor) -> None:
    """average <- decay * average + (1 - decay) * network, in place, for every parameter.

    `decay`: a number, or float64 without dimensions on the device, which a recorded graph reads at every replay.
    """
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    if isinstance(decay, Tensor):
        shares = [(1 - decay).to(weights[0].dtype)] * len(weights)
        torch._foreach_lerp_(averages, weights, shares)
    else:
        torch._foreach_lerp_(averages, weights, 1 - decay)
