"""The exponential moving average of a network's weights, which is what is sampled from."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, in place, for every parameter."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
