"""A state-space recurrence in two dimensions: along each row, then the rows' states down each column.

    g[i, j] = exp(d A_row) g[i, j-1] + d B x,   h[i, j] = exp(d A_column) h[i-1, j] + g[i, j],   y = <C, h> + D x

The other corners are the same on the turned grid, with the same parameters.
Source: the 2-D state-space equation of V2M (wangck20/V2M). Its released code runs two Mamba scans one after the other,
and sums out the state between rows and columns; here the state itself is passed on. Projections and initial values are
Mamba's.
B batch, H x W grid, L = H W tokens, D width, E inner channels, N state, R rank of dt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.layers.init import Draw, uniform_
from zigma_bench.mixers.mamba.mixer import DT_FLOOR, DT_MAX, DT_MIN, OutProjection
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench_v2m import V2mOptions

CORNERS = ((), (1, 2), (1,), (2,))  # the axes of [B, H, W, ...] to flip: top left, bottom right, bottom left, top right


class V2mMixer(nn.Module):
    """x [B, L, D] -> [B, L, D], both in raster order."""

    def __init__(self, options: V2mOptions, *, block: ZigmaOptions, grid: Grid, route: Route, backend: str) -> None:
        super().__init__()
        E, N, R = block.inner, block.state, block.dt_rank
        self.grid, self.split, self.corners = grid, [R, N, N], CORNERS[: options.corners]
        self.in_proj = nn.Linear(block.width, 2 * E, bias=False)
        self.conv = nn.Conv2d(E, E, 3, padding=1, groups=E)
        self.x_proj = nn.Linear(E, R + 2 * N, bias=False)
        self.recurrence = Recurrence(E, N, R)
        self.out_proj = OutProjection(E, block.width, block.depth)

    def forward(self, x: Tensor) -> Tensor:
        H, W = self.grid.height, self.grid.width
        x, z = self.in_proj(x).chunk(2, dim=-1)  # [B, L, E] each
        x = x.unflatten(1, (H, W)).permute(0, 3, 1, 2)
        u = nn.functional.silu(self.conv(x)).permute(0, 2, 3, 1)  # [B, H, W, E]
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)
        d = self.recurrence.step_size(dt)
        y = sum(checkpoint(self.recurrence, u, d, B, C, corner, use_reentrant=False) for corner in self.corners)
        out: Tensor = self.out_proj(y.flatten(1, 2).to(z.dtype) * nn.functional.silu(z))
        return out


class Recurrence(nn.Module):
    """u, d [B, H, W, E], B and C [B, H, W, N] -> y [B, H, W, E] in float32, from one corner."""

    def __init__(self, channels: int, states: int, rank: int) -> None:
        super().__init__()
        self.dt_weight = nn.Parameter(torch.empty(channels, rank))
        self.dt_bias = nn.Parameter(torch.empty(channels))
        self.A_log_row = nn.Parameter(torch.empty(channels, states))
        self.A_log_column = nn.Parameter(torch.empty(channels, states))
        self.D = nn.Parameter(torch.empty(channels))

    @torch.no_grad()
    def init_parameters(self, draw: Draw) -> None:
        """Mamba's initial values, for both directions."""
        channels, rank = self.dt_weight.shape
        uniform_(self.dt_weight, rank**-0.5, draw("dt_weight"))
        low, high = math.log(DT_MIN), math.log(DT_MAX)
        dt = torch.exp(torch.rand(channels, generator=draw("dt_bias")) * (high - low) + low).clamp_(min=DT_FLOOR)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        for A_log in (self.A_log_row, self.A_log_column):
            A_log.copy_(torch.log(torch.arange(1, A_log.shape[1] + 1)).expand_as(A_log))
        nn.init.ones_(self.D)

    def step_size(self, dt: Tensor) -> Tensor:
        """dt [B, H, W, R] -> d [B, H, W, E], the same from every corner."""
        return nn.functional.softplus(nn.functional.linear(dt, self.dt_weight).float() + self.dt_bias)

    def forward(self, u: Tensor, d: Tensor, B: Tensor, C: Tensor, corner: tuple[int, ...]) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):  # the recurrence runs in float32
            u, d, B, C = (tensor.float().flip(corner) if corner else tensor.float() for tensor in (u, d, B, C))
            g = accumulate((d * u)[..., None] * B[..., None, :], d, self.A_log_row, axis=2)
            h = accumulate(g, d, self.A_log_column, axis=1)  # [B, H, W, E, N]
            y = (h * C[..., None, :]).sum(-1) + self.D * u
            return y.flip(corner) if corner else y


def accumulate(x: Tensor, d: Tensor, A_log: Tensor, *, axis: int) -> Tensor:
    """h[i] = exp(-d[i] exp(A_log)) h[i-1] + x[i] along an axis of x [B, H, W, E, N]; d [B, H, W, E], A_log [E, N]."""
    A = -torch.exp(A_log.float())
    h = torch.zeros_like(x.select(axis, 0))
    found = []
    for x_i, d_i in zip(x.unbind(axis), d.unbind(axis), strict=True):
        h = torch.exp(d_i[..., None] * A) * h + x_i
        found.append(h)
    return torch.stack(found, axis)
