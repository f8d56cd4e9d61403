"""The exponential moving average (EMA) of the network's weights. Images are sampled with the EMA.

After n steps, a plain EMA with decay d still has a share d^n of the initial weights: 92% after 800 steps at 0.9999.
The warm-up removes them. The decay of step s, counted from 0, is

    min(d, (1 + s) / (10 + s)), and 0 at s = 0

The initial weights then have no share in the average, which covers about the last tenth of the steps so far
(relative width 0.09 in the terms of EDM2, arXiv 2312.02696, section 3.1) until the decay reaches d: after 890 steps
at 0.99, 89,990 at 0.9999. This is the default of diffusers (huggingface/diffusers, `EMAModel.get_decay` in
src/diffusers/training_utils.py), which follows TensorFlow's `ExponentialMovingAverage(num_updates=...)`.

EDM ramps up a half-life of 5% of the images so far (NVlabs/edm, training/training_loop.py, `ema_rampup_ratio`); the
half-life here is 7% of the steps so far. Neither depends on the batch size. We use the rule in steps because `d` is a
decay per step in the recipes of DiT, SiT and ZigMa, and because it adds no parameter. timm's `ModelEmaV3` and
diffusers' `use_ema_warmup` use 1 - (1 + s)^(-2/3), which suits a million steps: at 100,000 steps, the length of most
recipes here, it still averages only the last 2,000 steps and never reaches 0.9999.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zigma_bench.suite import Train


def ema_decay(recipe: Train, step: int) -> float:
    """The decay of the EMA update at the end of step `step`, counted from 0."""
    if not recipe.ema_warmup:
        return recipe.ema
    return min(recipe.ema, (1 + step) / (10 + step)) if step > 0 else 0.0


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float | Tensor) -> None:
    """average <- decay * average + (1 - decay) * network, in place, for every parameter.

    `decay`: a number, or a 0-dimensional float64 tensor on the device, which a CUDA graph reads at every replay.
    """
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    if isinstance(decay, Tensor):
        shares = [(1 - decay).to(weights[0].dtype)] * len(weights)
        torch._foreach_lerp_(averages, weights, shares)
    else:
        torch._foreach_lerp_(averages, weights, 1 - decay)
