"""The linear path between noise and data, and its velocity (rectified flow; SiT's `Linear`, ZigMa's time convention).

x0 noise, x1 data, t in [0, 1]: t = 0 is noise, t = 1 is data.
"""

from __future__ import annotations

from torch import Tensor


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """x_t = t x1 + (1 - t) x0 for x0, x1 [B, ...] and t [B]."""
    t = t.reshape(-1, *[1] * (x1.ndim - 1))
    return t * x1 + (1 - t) * x0


def velocity(x0: Tensor, x1: Tensor) -> Tensor:
    """dx_t/dt = x1 - x0, the same at every t."""
    return x1 - x0
