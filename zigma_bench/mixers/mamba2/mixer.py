"""The Mamba-2 mixer along a route. As in Mamba, only the convolution and the scan (SSD) depend on the token order.

Source: Dao and Gu 2024 (arXiv 2405.21060) and state-spaces/mamba (mamba_ssm/modules/mamba2_simple.py): one projection
of the token gives z, x, B, C and dt; x, B and C are convolved; out_proj is applied to the norm of y SiLU(z). It has one
path. With several paths, the layer has one x, z and out_proj, as in Vim and VMamba, and each branch has its own
convolution, A, D, dt bias and projection to B, C and dt. The paths are merged before the gate and the single norm, as
in Hydra (goombalab/hydra), so a sum and a mean differ only by the norm's epsilon. A pad is a learned row of the mixer's
input. The stages of a cascade only pass on x: B, C and dt are always those of the token.

B batch, L tokens, D width, E inner channels in H heads, G groups, N state size, K paths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw, normal_, uniform_
from zigma_bench.mixers.along_route import AlongRoute, PadInputs, PathBranch, make_branches, make_merge
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import path_channels
from zigma_bench.mixers.learned_order import apply_order, make_order
from zigma_bench.mixers.mamba.mixer import DT_FLOOR, DT_MAX, DT_MIN, OutProjection
from zigma_bench.mixers.mamba2.facts import Mamba2Options
from zigma_bench.mixers.scan_path import make_pads
from zigma_bench.ops.arguments import working_dtype
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.ssd import ssd
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

A_MIN, A_MAX = 1.0, 16.0
NORM_EPS = 1e-5


class Mamba2Branch(PathBranch):
    """The convolution and scan of one path: rows [x | B | C | dt], [B, L, E + 2 G N + H] -> [B, L, E]."""

    def __init__(
        self,
        options: Mamba2Options,
        *,
        block: BlockOptions,
        channels: int,
        backend: str,
        zero_dt_bias: bool = False,
        features: int = 0,
    ) -> None:
        super().__init__()
        E, H, BC = channels, options.heads(channels), options.groups * options.state
        self.channels, self.groups, self.backend, self.zero_dt_bias = E, options.groups, backend, zero_dt_bias
        self.split, self.convolved = [E, BC, BC], E + 2 * BC
        self.bcdt_proj = nn.Linear(block.width, 2 * BC + H, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(self.convolved, block.conv))
        self.conv_bias = nn.Parameter(torch.empty(self.convolved))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.A_log = nn.Parameter(torch.empty(H))
        self.D = nn.Parameter(torch.empty(H))
        self.step_features = nn.Parameter(torch.empty(features, BC)) if features else None

    @torch.no_grad()
    def init_parameters(self, draw: Draw) -> None:
        """Initialize as Mamba-2 does: -A uniform in [1, 16], D = 1, dt log-uniform in [1e-3, 0.1]."""
        H = len(self.D)
        uniform_(self.conv_weight, 1 / math.sqrt(self.conv_weight.shape[1]), draw("conv_weight"))
        uniform_(self.conv_bias, 1 / math.sqrt(self.conv_weight.shape[1]), draw("conv_bias"))
        low, high = math.log(DT_MIN), math.log(DT_MAX)
        dt = torch.exp(torch.rand(H, generator=draw("dt_bias")) * (high - low) + low).clamp_(min=DT_FLOOR)
        self.dt_bias.copy_(torch.zeros(H) if self.zero_dt_bias else dt + torch.log(-torch.expm1(-dt)))
        self.A_log.copy_(torch.log(torch.rand(H, generator=draw("A_log")) * (A_MAX - A_MIN) + A_MIN))
        nn.init.ones_(self.D)
        if self.step_features is not None:
            normal_(self.step_features, 0.02, draw("step_features"))

    def forward(
        self,
        rows: Tensor,
        z: Tensor | None,
        path: Tensor | None,
        segment_starts: Tensor | None,
        features: Tensor | None,
    ) -> Tensor:
        """See `PathBranch`. Rows are [x | B | C | dt]; `features` are ids of rows in the table that is added to B."""
        assert z is None, "Mamba-2 gates the merged output"
        along: dict[str, Any] = {"path": path, "segment_starts": segment_starts, "backend": self.backend}
        xBC, dt = rows[..., : self.convolved], rows[..., self.convolved :]
        x, B, C = torch.split(causal_conv(xBC, self.conv_weight, self.conv_bias, **along), self.split, dim=-1)
        if self.step_features is not None and features is not None:
            B = B + self.step_features[features].to(B.dtype)
        B, C = (torch.unflatten(tensor, -1, (self.groups, -1)) for tensor in (B, C))
        A = -torch.exp(self.A_log.float())
        return ssd(x, dt, A, B, C, D=self.D, dt_bias=self.dt_bias, **along)

    def project(self, tokens: Tensor) -> Tensor:
        """Project tokens [.., D] to B, C and dt: [.., 2 G N + H]."""
        return self.bcdt_proj(tokens)  # type: ignore[no-any-return]


class Mamba2Mixer(AlongRoute):
    """x [B, L, D] -> [B, L, D] along one layer's route: a branch per path or one for all, merged before the norm."""

    def __init__(self, options: Mamba2Options, *, block: BlockOptions, grid: Grid, route: Route, backend: str) -> None:
        super().__init__(route)
        E, D = block.inner, block.width
        self.order = make_order(route, width=D, grid=grid)
        self.in_proj = nn.Linear(
            D, 2 * E, bias=False
        )  # z, then x; followed by bcdt_proj's rows, this is the published in_proj
        self.pads = make_pads(route, D)

        def make_branch(number: int) -> Mamba2Branch:
            return Mamba2Branch(
                options,
                block=block,
                channels=path_channels(route, E),
                backend=backend,
                zero_dt_bias=block.zero_backward_dt_bias and number > 0,
                features=route.features,
            )

        self.branches = make_branches(route, make_branch)
        self.merge = make_merge(route, E)
        self.norm = nn.RMSNorm(E, eps=NORM_EPS)
        self.out_proj = OutProjection(E, D, block.depth)

    def forward(self, u: Tensor) -> Tensor:
        learned, u = apply_order(self.order, u)
        z, x = self.in_proj(u).chunk(2, dim=-1)  # [B, L, E] each
        y = self.along_route(x, tokens=u, pads=self._pad_inputs(), learned=learned)
        wide = working_dtype(y)
        y = self.norm(y.to(wide) * nn.functional.silu(z.to(wide))).to(y.dtype)
        return self.out_proj(y)  # type: ignore[no-any-return]

    def _pad_inputs(self) -> PadInputs | None:
        """The inputs of pads: learned tokens [P, D], projected like the others."""
        if self.pads is None:
            return None
        return PadInputs(self.in_proj(self.pads.table).chunk(2, dim=-1)[1], self.pads.table)
