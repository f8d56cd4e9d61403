"""The Mamba mixer along a route: the only place of a network that knows the order of the tokens.

B batch, L tokens, D width, E inner channels, N state, R rank of dt, K paths. The stream stays in raster order:
projections act on each token alone, and only the convolution and the scan read and write rows through a path.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zigma_bench.models.init import Draw, uniform_
from zigma_bench.models.options import ZigmaOptions
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.selective_scan import selective_scan
from zigma_bench.scans.route import Route

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4


class Branch(nn.Module):
    """One path's convolution, projections and scan: x, z [B, L, E] -> [B, L, E], gated by SiLU(z) (Mamba, S6)."""

    def __init__(self, options: ZigmaOptions, *, backend: str, zero_dt_bias: bool = False) -> None:
        super().__init__()
        E, N, R = options.inner, options.state, options.dt_rank
        self.split, self.backend, self.zero_dt_bias = [R, N, N], backend, zero_dt_bias
        self.conv_weight = nn.Parameter(torch.empty(E, options.conv))
        self.conv_bias = nn.Parameter(torch.empty(E))
        self.x_proj = nn.Linear(E, R + 2 * N, bias=False)
        self.dt_weight = nn.Parameter(torch.empty(E, R))
        self.dt_bias = nn.Parameter(torch.empty(E))
        self.A_log = nn.Parameter(torch.empty(E, N))
        self.D = nn.Parameter(torch.empty(E))

    @torch.no_grad()
    def init_parameters(self, draw: Draw) -> None:
        """Mamba's: A = -(1..N), D = 1, dt log-uniform in [1e-3, 0.1] through the inverse of softplus."""
        E, R = self.dt_weight.shape
        uniform_(self.conv_weight, 1 / math.sqrt(self.conv_weight.shape[1]), draw("conv_weight"))
        uniform_(self.conv_bias, 1 / math.sqrt(self.conv_weight.shape[1]), draw("conv_bias"))
        uniform_(self.dt_weight, R**-0.5, draw("dt_weight"))
        low, high = math.log(DT_MIN), math.log(DT_MAX)
        dt = torch.exp(torch.rand(E, generator=draw("dt_bias")) * (high - low) + low).clamp_(min=DT_FLOOR)
        self.dt_bias.copy_(torch.zeros(E) if self.zero_dt_bias else dt + torch.log(-torch.expm1(-dt)))
        self.A_log.copy_(torch.log(torch.arange(1, self.A_log.shape[1] + 1)).expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, x: Tensor, z: Tensor, path: Tensor) -> Tensor:
        u = causal_conv(x, self.conv_weight, self.conv_bias, path=path, backend=self.backend)  # [B, L, E]
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)  # [B, L, R], [B, L, N], [B, L, N]
        delta = nn.functional.linear(dt, self.dt_weight)  # [B, L, E]
        A = -torch.exp(self.A_log.float())
        return selective_scan(
            u, delta, A, B, C, D=self.D, z=z, delta_bias=self.dt_bias, path=path, backend=self.backend
        )


class OutProjection(nn.Linear):
    """E -> D, started at PyTorch's default divided by the square root of the depth (GPT-2's rule, as Mamba does)."""

    def __init__(self, inner: int, width: int, depth: int) -> None:
        super().__init__(inner, width, bias=False)
        self.depth = depth

    def init_parameters(self, draw: Draw) -> None:
        uniform_(self.weight, 1 / math.sqrt(self.in_features * self.depth), draw("weight"))


class MambaMixer(nn.Module):
    """x [B, L, D] -> [B, L, D] along one layer's route; several paths are summed (or averaged) before out_proj."""

    def __init__(
        self, options: ZigmaOptions, route: Route, *, backend: str, depth: int, zero_backward_dt_bias: bool = False
    ) -> None:
        super().__init__()
        self.merge, self.share = route.merge, route.share
        self.paths: Tensor
        self.register_buffer("paths", torch.from_numpy(route.paths.copy()), persistent=False)  # [K, L]
        count = len(route.paths) if route.share == "separate" else 1
        self.in_proj = nn.Linear(options.width, 2 * options.inner, bias=False)
        self.branches = nn.ModuleList(
            Branch(options, backend=backend, zero_dt_bias=zero_backward_dt_bias and index > 0) for index in range(count)
        )
        self.out_proj = OutProjection(options.inner, options.width, depth)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)  # [B, L, E] each
        walks = [self.branches[k if self.share == "separate" else 0](x, z, path) for k, path in enumerate(self.paths)]
        y = torch.stack(walks).sum(0) if len(walks) > 1 else walks[0]
        return self.out_proj(y / len(walks) if self.merge == "mean" else y)  # type: ignore[no-any-return]
