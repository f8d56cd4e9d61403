"""The Mamba-2 mixer along a route: as Mamba's, only the convolution and the scan (SSD) know the order of the tokens.

Source: Dao and Gu 2024 (arXiv 2405.21060) and state-spaces/mamba (mamba_ssm/modules/mamba2_simple.py): one projection
of the token gives z, x, B, C and dt; x, B and C are convolved; the norm of y SiLU(z) goes to out_proj. That module has
one path. Of several, x, z and out_proj are the layer's, as in Vim and VMamba, and each path with own parameters has its
convolution, A, D, dt bias and the projection to B, C and dt; the paths are merged before the gate and the one norm, as
in Hydra (goombalab/hydra), so that a sum and a mean are the same but for the norm's epsilon. A pad is a learned row of
the mixer's input, and the stages of a cascade hand on x alone: B, C and dt are the token's.

B batch, L tokens, D width, E inner channels in H heads, G groups, N state, K paths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw, normal_, uniform_
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.learned_order import Order
from zigma_bench.mixers.mamba.mixer import DT_FLOOR, DT_MAX, DT_MIN, OutProjection
from zigma_bench.mixers.mamba2.facts import Mamba2Options
from zigma_bench.mixers.merges import make_merge
from zigma_bench.mixers.walk import PadTable, Walk, put_back, with_pads
from zigma_bench.ops.arguments import working_dtype
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.ssd import ssd
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

A_MIN, A_MAX = 1.0, 16.0
NORM_EPS = 1e-5


class Branch(nn.Module):
    """One path's convolution and scan: rows [x | B | C | dt], [B, L, E + 2 G N + H] -> [B, L, E]."""

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
        """Mamba-2's: -A uniform in [1, 16], D = 1, dt log-uniform in [1e-3, 0.1] through the inverse of softplus."""
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
        self, rows: Tensor, z: None, path: Tensor | None, since: Tensor | None, features: Tensor | None
    ) -> Tensor:
        """Rows along `path` (None: as they lie); `features` [rows]: each row's id in the table that is added to B.

        There is never a z here: the gate acts behind the merge.
        """
        along: dict[str, Any] = {"path": path, "since": since, "backend": self.backend}
        xBC, dt = rows[..., : self.convolved], rows[..., self.convolved :]
        x, B, C = torch.split(causal_conv(xBC, self.conv_weight, self.conv_bias, **along), self.split, dim=-1)
        if self.step_features is not None and features is not None:
            B = B + self.step_features[features].to(B.dtype)
        B, C = (torch.unflatten(tensor, -1, (self.groups, -1)) for tensor in (B, C))
        A = -torch.exp(self.A_log.float())
        return ssd(x, dt, A, B, C, D=self.D, dt_bias=self.dt_bias, **along)

    def from_tokens(self, rows: Tensor, *along: Any) -> Tensor:
        """As `forward`, of rows [x | token], [B, L, E + D]."""
        x, u = rows[..., : self.channels], rows[..., self.channels :]
        y: Tensor = self(torch.cat((x, self.bcdt_proj(u)), -1), *along)
        return y


class Mamba2Mixer(nn.Module):
    """x [B, L, D] -> [B, L, D] along one layer's route: one branch a path, or one for all, merged before the norm."""

    def __init__(self, options: Mamba2Options, *, block: BlockOptions, grid: Grid, route: Route, backend: str) -> None:
        super().__init__()
        E, D, K = block.inner, block.width, route.K
        self.paths, self.merge_name, self.share, self.stages = K, route.merge, route.share, route.stages
        self.walks = nn.ModuleList(Walk(route, number) for number in range(0 if route.learned else K))
        self.order = None if route.learned is None else Order(route.learned, paths=K, width=D, grid=grid)
        self.in_proj = nn.Linear(D, 2 * E, bias=False)  # z, then x: with bcdt_proj the published in_proj, row by row
        self.pads = PadTable(route.pad_rows, D) if route.pad_rows else None
        self.zeros: Tensor | None
        zero_pads = route.pads is None and route.pad_count > 0
        self.register_buffer("zeros", torch.zeros(1, D) if zero_pads else None, persistent=False)
        self.branches = nn.ModuleList(
            Branch(
                options,
                block=block,
                channels=E // K if route.merge == "concat" else E,
                backend=backend,
                zero_dt_bias=block.zero_backward_dt_bias and index > 0,
                features=route.features,
            )
            for index in range(K if route.share == "separate" else 1)
        )
        self.merge = make_merge(route.merge, K, E)
        self.norm = nn.RMSNorm(E, eps=NORM_EPS)
        self.out_proj = OutProjection(E, D, block.depth)

    def forward(self, u: Tensor) -> Tensor:
        paths = None
        if self.order is not None:
            paths, weight = self.order(u)  # [B, K, L], [B, L] or None
            u = u if weight is None else u * weight[..., None].to(u.dtype)
        z, x = self.in_proj(u).chunk(2, dim=-1)  # [B, L, E] each
        if paths is not None:
            y = self._along_learned(paths, u, x)
        elif self.merge_name == "scatter":
            y = self._scatter(u, x)
        else:
            y = self._cascade(u, x) if self.stages is not None else self._along(u, x)
        wide = working_dtype(y)
        y = self.norm(y.to(wide) * nn.functional.silu(z.to(wide))).to(y.dtype)
        return self.out_proj(y)  # type: ignore[no-any-return]

    def _along(self, u: Tensor, x: Tensor) -> Tensor:
        rows, behind = self._rows(u, x), self._behind()
        return self.merge([self._walked(k, rows[k], behind) for k in range(self.paths)])  # type: ignore[no-any-return]

    def _walked(self, number: int, rows: Tensor, behind: list[Tensor] | None) -> Tensor:
        y: Tensor = self.walks[number](self._branch(number), rows, None, None if behind is None else behind[number])
        return y

    def _rows(self, u: Tensor, x: Tensor) -> list[Tensor]:
        """What each path's branch reads of tokens u [.., D] and x [.., E]: [.., E + 2 G N + H]."""
        chosen = self._chosen(u)
        if self.merge_name == "concat":  # a path works on its own group of channels
            return [torch.cat(parts, -1) for parts in zip(x.chunk(self.paths, -1), chosen, strict=True)]
        if self.share == "shared":
            return [torch.cat((x, chosen[0]), -1)] * self.paths
        return [torch.cat((x, more), -1) for more in chosen]

    def _chosen(self, u: Tensor) -> list[Tensor]:
        """B, C and dt for each path, [.., 2 G N + H]."""
        if self.share == "shared":
            return [self._branch(0).bcdt_proj(u)] * self.paths
        return [self._branch(k).bcdt_proj(u) for k in range(self.paths)]

    def _behind(self) -> list[Tensor] | None:
        """The rows that pads read, [P, E + 2 G N + H] for each path: a pad is projected like a token."""
        pads = self._pads()
        return None if pads is None else self._rows(*pads)

    def _pads(self) -> tuple[Tensor, Tensor] | None:
        """Pads as tokens [P, D], and their x [P, E]."""
        tokens = self.zeros if self.pads is None else self.pads.table
        return None if tokens is None else (tokens, self.in_proj(tokens).chunk(2, dim=-1)[1])

    def _branch(self, number: int) -> Branch:
        branch = self.branches[number if self.share == "separate" else 0]
        assert isinstance(branch, Branch)
        return branch

    def _walk(self, number: int) -> Walk:
        walk = self.walks[number]
        assert isinstance(walk, Walk)
        return walk

    def _scatter(self, u: Tensor, x: Tensor) -> Tensor:
        """Each path's branch projects its own part of the tokens alone."""
        pads = self._pads()
        behind = None if pads is None else torch.cat((pads[1], pads[0].to(x.dtype)), -1)
        rows = with_pads(torch.cat((x, u.to(x.dtype)), -1), behind)
        return put_back([self._walk(k).part(self._branch(k).from_tokens, rows) for k in range(self.paths)], x)

    def _cascade(self, u: Tensor, x: Tensor) -> Tensor:
        """Stage after stage, each scanning the sum that the one before it wrote."""
        assert self.stages is not None
        chosen, behind = self._chosen(u), self._behind()
        number = 0
        for count in self.stages:
            numbers = range(number, number + count)
            x = self.merge([self._walked(k, torch.cat((x, chosen[k]), -1), behind) for k in numbers])
            number += count
        return x

    def _along_learned(self, paths: Tensor, u: Tensor, x: Tensor) -> Tensor:
        """One order a sample: rows are gathered, scanned as they then lie, and put back."""
        walks = []
        for k, (path, rows) in enumerate(zip(paths.unbind(1), self._rows(u, x), strict=True)):
            y = self._branch(k)(rows.gather(1, path[..., None].expand_as(rows)), None, None, None, None)
            walks.append(y.gather(1, path.argsort(1)[..., None].expand_as(y)))
        return self.merge(walks)  # type: ignore[no-any-return]
