"""What a network is trained on: the squared error of its velocity, at a time drawn for each image (SiT, eq. 3)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zigma_bench.diffusion.path import interpolate, velocity

Network = Callable[[Tensor, Tensor], Tensor]


def velocity_loss(network: Network, x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Mean over all pixels of (v(x_t, t) - (x1 - x0))^2, for each image: x1, x0 [B, C, H, W], t [B] -> [B], float32."""
    error = network(interpolate(x0, x1, t), t).float() - velocity(x0, x1)
    return error.square().flatten(1).mean(1)
