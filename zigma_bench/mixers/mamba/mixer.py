"""The Mamba mixer along a route: the only place of a network that knows the order of the tokens.

B batch, L tokens, D width, E inner channels, N state, R rank of dt, K paths. The stream
stays in raster order: projections act on each token alone, and only the convolution and the scan read and write rows
through a path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw, normal_, uniform_
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.learned_order import Order
from zigma_bench.mixers.mamba.facts import MambaOptions
from zigma_bench.mixers.merges import make_merge
from zigma_bench.mixers.walk import PadTable, Walk, put_back, with_pads
from zigma_bench.ops.backends import backend_named
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.causal_conv.torch_blocks import along_path
from zigma_bench.ops.mamba_inner import mamba_inner
from zigma_bench.ops.selective_scan import selective_scan
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4


class Branch(nn.Module):
    """One path's convolution, projections and scan: x, z [B, L, E] -> [B, L, E], gated by SiLU(z) if given (S6)."""

    def __init__(
        self, options: BlockOptions, *, channels: int, backend: str, zero_dt_bias: bool = False, features: int = 0
    ) -> None:
        super().__init__()
        E, N, R = channels, options.state, options.dt_rank
        self.split, self.backend, self.zero_dt_bias = [R, N, N], backend, zero_dt_bias
        self.conv_weight = nn.Parameter(torch.empty(E, options.conv))
        self.conv_bias = nn.Parameter(torch.empty(E))
        self.x_proj = nn.Linear(E, R + 2 * N, bias=False)
        self.dt_weight = nn.Parameter(torch.empty(E, R))
        self.dt_bias = nn.Parameter(torch.empty(E))
        self.A_log = nn.Parameter(torch.empty(E, N))
        self.D = nn.Parameter(torch.empty(E))
        self.step_features = nn.Parameter(torch.empty(features, N)) if features else None

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
        if self.step_features is not None:
            normal_(self.step_features, 0.02, draw("step_features"))

    def forward(
        self, x: Tensor, z: Tensor | None, path: Tensor | None, since: Tensor | None, features: Tensor | None
    ) -> Tensor:
        """Rows along `path` (None: as they lie); `features` [rows]: each row's id in the table that is added to B."""
        if path is not None and not backend_named(self.backend).reads_through_path:  # one gather for both operators
            ids = None if features is None else features[path]
            return along_path(lambda x_, z_: self(x_, z_, None, since, ids), [x, z], path)
        along: dict[str, Any] = {"path": path, "since": since, "backend": self.backend}
        u = causal_conv(x, self.conv_weight, self.conv_bias, **along)  # [B, L, E]
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)  # [B, L, R], [B, L, N], [B, L, N]
        if self.step_features is not None and features is not None:
            B = B + self.step_features[features].to(B.dtype)
        # By rows of its own, whose gradient is a product with few rows: one with few columns takes six times as long.
        delta = dt @ self.dt_weight.t().contiguous().to(dt.dtype)  # [B, L, E]
        A = -torch.exp(self.A_log.float())
        return selective_scan(u, delta, A, B, C, D=self.D, z=z, delta_bias=self.dt_bias, **along)

    @property
    def parameters_of_scan(self) -> tuple[Tensor, ...]:
        """What `mamba_inner` takes behind xz, for one path."""
        A = -torch.exp(self.A_log.float())
        return (
            self.conv_weight, self.conv_bias, self.x_proj.weight, self.dt_weight, self.dt_bias, A, self.D,
        )  # fmt: skip


class InProjection(nn.Linear):
    """D -> 2 E: x and z side by side, or `apart`.

    Apart they are two products: the backward of halves would put their gradients together again.
    """

    def forward(self, x: Tensor, *, apart: bool = False) -> Any:
        if not apart:
            return super().forward(x)
        return tuple(nn.functional.linear(x, weight) for weight in self.weight.chunk(2))


class OutProjection(nn.Linear):
    """E -> D, started at PyTorch's default divided by the square root of the depth (GPT-2's rule, as Mamba does)."""

    def __init__(self, inner: int, width: int, depth: int) -> None:
        super().__init__(inner, width, bias=False)
        self.depth = depth

    def init_parameters(self, draw: Draw) -> None:
        uniform_(self.weight, 1 / math.sqrt(self.in_features * self.depth), draw("weight"))


class MambaMixer(nn.Module):
    """x [B, L, D] -> [B, L, D] along one layer's route: one branch a path, or one for all, merged before out_proj."""

    def __init__(self, options: MambaOptions, *, block: BlockOptions, grid: Grid, route: Route, backend: str) -> None:
        super().__init__()
        E, K = block.inner, route.K
        channels = E // K if route.merge == "concat" else E
        self.merge_name, self.share, self.stages = route.merge, route.share, route.stages
        self.walks = nn.ModuleList(Walk(route, number) for number in range(0 if route.learned else K))
        self.order = None if route.learned is None else Order(route.learned, paths=K, width=block.width, grid=grid)
        self.in_proj = InProjection(block.width, 2 * E, bias=False)
        self.pads = PadTable(route.pad_rows, E) if route.pad_rows else None
        self.zeros: Tensor | None
        zero_pads = route.pads is None and route.pad_count > 0
        self.register_buffer("zeros", torch.zeros(1, E) if zero_pads else None, persistent=False)
        self.branches = nn.ModuleList(
            Branch(
                block,
                channels=channels,
                backend=backend,
                zero_dt_bias=block.zero_backward_dt_bias and index > 0,
                features=route.features,
            )
            for index in range(K if route.share == "separate" else 1)
        )
        self.merge = make_merge(route.merge, K, E)
        in_place = route.learned is None and route.pad_count == 0 and route.stages is None and not route.features
        one_operator = "mamba_inner" in backend_named(backend).operators
        self.whole, self.backend = one_operator and in_place and route.merge not in ("scatter", "concat"), backend
        self.out_proj = OutProjection(E, block.width, block.depth)

    @property
    def first(self) -> Tensor | None:
        """The projection [2E, D] that may act before the mixer is called with `projected`; None if it may not."""
        return self.in_proj.weight if self.whole else None

    def forward(self, x: Tensor, *, projected: bool = False) -> Tensor:
        """`projected`: x is what `first` gave, [B, L, 2E]."""
        if self.order is not None:
            return self._along_learned(x)
        if self.whole:
            xz = x if projected else self.in_proj(x)
            if self.merge_name == "sum":
                return self._whole(xz, self.out_proj.weight)
            return self.out_proj(self.merge(self._whole(xz).unbind(0)))  # type: ignore[no-any-return]
        x, z = self.in_proj(x, apart=True)  # [B, L, E] each
        behind = self.zeros if self.pads is None else self.pads.table
        if self.stages is not None:
            return self.out_proj(self._cascade(x, z, behind))  # type: ignore[no-any-return]
        if self.merge_name == "scatter":
            rows = with_pads(x, behind)
            parts = [self._walk(k).part(self._branch(k), rows) for k in range(len(self.walks))]
            return self.out_proj(put_back(parts, x) * nn.functional.silu(z))  # type: ignore[no-any-return]
        walks = [
            walk(self._branch(k), self._part(k, x), self._part(k, z), self._part(k, behind))
            for k, walk in enumerate(self.walks)
        ]
        return self.out_proj(self.merge(walks))  # type: ignore[no-any-return]

    def _part(self, number: int, rows: Tensor | None) -> Tensor | None:
        """The channels that a path works on: its own group of them, or all."""
        if rows is None or self.merge_name != "concat":
            return rows
        return rows.chunk(len(self.walks), -1)[number]

    def _walk(self, number: int) -> Walk:
        walk = self.walks[number]
        assert isinstance(walk, Walk)
        return walk

    def _branch(self, number: int) -> nn.Module:
        return self.branches[number if self.share == "separate" else 0]

    def _whole(self, xz: Tensor, out_proj: Tensor | None = None) -> Tensor:
        """All paths [K, B, L, E], or out_proj of their sum, as one operator of the backend `fused`."""
        walks = [self._walk(k) for k in range(len(self.walks))]
        branches = [self._branch(k) for k in range(len(walks))]
        parameters = zip(*(branch.parameters_of_scan for branch in branches if isinstance(branch, Branch)), strict=True)
        return mamba_inner(
            xz, *map(_stacked, parameters), path=_stacked([walk.path for walk in walks]),
            since=_stacked([walk.since for walk in walks]), out_proj=out_proj, backend=self.backend,
        )  # fmt: skip

    def _cascade(self, x: Tensor, z: Tensor, behind: Tensor | None) -> Tensor:
        """Stage after stage, each reading the sum that the one before it wrote; the gate acts at the end."""
        assert self.stages is not None
        number = 0
        for count in self.stages:
            numbers = range(number, number + count)
            x = self.merge([self.walks[k](self._branch(k), x, None, behind) for k in numbers])
            number += count
        return x * nn.functional.silu(z)

    def _along_learned(self, x: Tensor) -> Tensor:
        """One order a sample: rows are gathered, scanned as they then lie, and put back."""
        assert self.order is not None
        paths, weight = self.order(x)  # [B, K, L], [B, L] or None
        x, z = self.in_proj(x if weight is None else x * weight[..., None].to(x.dtype)).chunk(2, dim=-1)
        walks = []
        for k, path in enumerate(paths.unbind(1)):
            index = path[..., None].expand_as(x)
            back = path.argsort(1)[..., None].expand_as(x)
            y = self._branch(k)(x.gather(1, index), z.gather(1, index), None, None, None)
            walks.append(y.gather(1, back))
        return self.out_proj(self.merge(walks))  # type: ignore[no-any-return]


def _stacked(tensors: Sequence[Tensor | None]) -> Any:
    """K tensors as one [K, ...]; None if there are none."""
    given = [tensor for tensor in tensors if tensor is not None]
    assert len(given) in (0, len(tensors))
    if not given:
        return None
    return given[0][None] if len(given) == 1 else torch.stack(given)
