"""The Mamba mixer along a route: the only part of a network that depends on the order of the tokens.

The stream stays in raster order: projections process each token separately, and only the convolution and the scan read
and write rows through a path. B batch, L tokens, D width, E inner channels, N state size, R rank of dt, K paths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from zigma_bench.layers.grid_conv import GridConv
from zigma_bench.layers.init import Draw, normal_, uniform_
from zigma_bench.mixers.along_route import AlongRoute, PadInputs, PathBranch, make_branches, make_merge
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import path_channels
from zigma_bench.mixers.learned_order import apply_order, make_order
from zigma_bench.mixers.mamba.facts import MambaOptions, runs_as_one_operator
from zigma_bench.mixers.scan_path import ScanPath, make_pads
from zigma_bench.ops.backends import backend_named
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.causal_conv.torch_blocks import along_path
from zigma_bench.ops.mamba_inner import mamba_inner
from zigma_bench.ops.products import cast_as_products
from zigma_bench.ops.selective_scan import selective_scan
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4


class MambaBranch(PathBranch):
    """One path's convolution, projections and scan (S6): x, z [B, L, E] -> [B, L, E], times SiLU(z) if there is a z.

    With `convolves` False, the mixer has applied the convolution, if any, and its activation to x.
    """

    def __init__(
        self,
        options: BlockOptions,
        *,
        channels: int,
        backend: str,
        convolves: bool = True,
        zero_dt_bias: bool = False,
        features: int = 0,
    ) -> None:
        super().__init__()
        E, N, R = channels, options.state, options.dt_rank
        self.split, self.backend, self.zero_dt_bias = [R, N, N], backend, zero_dt_bias
        self.conv_weight = nn.Parameter(torch.empty(E, options.conv)) if convolves else None
        self.conv_bias = nn.Parameter(torch.empty(E)) if convolves else None
        self.x_proj = nn.Linear(E, R + 2 * N, bias=False)
        self.dt_weight = nn.Parameter(torch.empty(E, R))
        self.dt_bias = nn.Parameter(torch.empty(E))
        self.A_log = nn.Parameter(torch.empty(E, N))
        self.D = nn.Parameter(torch.empty(E))
        self.step_features = nn.Parameter(torch.empty(features, N)) if features else None

    @torch.no_grad()
    def init_parameters(self, draw: Draw) -> None:
        """Initialize as Mamba does: A = -(1..N), D = 1, dt log-uniform in [1e-3, 0.1] (by the inverse of softplus)."""
        E, R = self.dt_weight.shape
        if self.conv_weight is not None and self.conv_bias is not None:
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
        self, x: Tensor, z: Tensor | None, path: Tensor | None, segment_starts: Tensor | None, features: Tensor | None
    ) -> Tensor:
        """See `PathBranch`. `features` are ids of rows in the table that is added to B."""
        if path is not None and not backend_named(self.backend).reads_through_path:  # one gather for both operators
            ids = None if features is None else features[path]
            return along_path(lambda x_, z_: self(x_, z_, None, segment_starts, ids), [x, z], path)
        along: dict[str, Any] = {"path": path, "segment_starts": segment_starts, "backend": self.backend}
        u = x if self.conv_weight is None else causal_conv(x, self.conv_weight, self.conv_bias, **along)  # [B, L, E]
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)  # [B, L, R], [B, L, N], [B, L, N]
        if self.step_features is not None and features is not None:
            B = B + self.step_features[features].to(B.dtype)
        # The transpose is contiguous, so that the product for its gradient has few rows; with few columns it would take
        # six times as long.
        delta = dt @ self.dt_weight.t().contiguous().to(dt.dtype)  # [B, L, E]
        A = -torch.exp(self.A_log.float())
        return selective_scan(u, delta, A, B, C, D=self.D, z=z, delta_bias=self.dt_bias, **along)

    @property
    def parameters_of_scan(self) -> tuple[Tensor, ...]:
        """The arguments of `mamba_inner` after xz, for one path with a convolution."""
        assert self.conv_weight is not None and self.conv_bias is not None
        A = -torch.exp(self.A_log.float())
        return (
            self.conv_weight, self.conv_bias, self.x_proj.weight, self.dt_weight, self.dt_bias, A, self.D,
        )  # fmt: skip


class InProjection(nn.Linear):
    """D -> 2 E: x and z in one tensor, or with `apart` in two.

    With `apart`, x and z are computed by two products, because the backward pass of one product would concatenate the
    gradients of its halves.
    """

    def forward(self, x: Tensor, *, apart: bool = False) -> Any:
        if not apart:
            return super().forward(x)
        x = cast_as_products(x)  # one copy for both products, not one for each
        return tuple(nn.functional.linear(x, weight) for weight in self.weight.chunk(2))


class OutProjection(nn.Linear):
    """E -> D, initialized to PyTorch's default divided by the square root of the depth (GPT-2's rule, as in Mamba)."""

    def __init__(self, inner: int, width: int, depth: int) -> None:
        super().__init__(inner, width, bias=False)
        self.depth = depth

    def init_parameters(self, draw: Draw) -> None:
        uniform_(self.weight, 1 / math.sqrt(self.in_features * self.depth), draw("weight"))


class MambaMixer(AlongRoute):
    """x [B, L, D] -> [B, L, D] along one layer's route: a branch per path or one for all, merged before `out_proj`."""

    def __init__(self, options: MambaOptions, *, block: BlockOptions, grid: Grid, route: Route, backend: str) -> None:
        super().__init__(route)
        E = block.inner
        self.order = make_order(route, width=block.width, grid=grid)
        self.in_proj = InProjection(block.width, 2 * E, bias=False)
        self.pads = make_pads(route, E)
        self.convolves_along_path = options.is_along_path
        self.grid_conv = GridConv(E, grid, options.kernel, init="uniform") if options.convolution == "grid" else None

        def make_branch(number: int) -> MambaBranch:
            return MambaBranch(
                block,
                channels=path_channels(route, E),
                backend=backend,
                convolves=self.convolves_along_path,
                zero_dt_bias=block.zero_backward_dt_bias and number > 0,
                features=route.features,
            )

        self.branches = make_branches(route, make_branch)
        self.merge = make_merge(route, E)
        fused = "mamba_inner" in backend_named(backend).operators
        self.one_operator = fused and runs_as_one_operator(options, route)
        self.sums, self.backend = route.merge_facts.is_sum, backend
        self.out_proj = OutProjection(E, block.width, block.depth)

    @property
    def first(self) -> Tensor | None:
        """The weight [2E, D] of the first projection, if the caller may apply it and pass `projected`; else None."""
        return self.in_proj.weight if self.one_operator else None

    def forward(self, x: Tensor, *, projected: bool = False) -> Tensor:
        """`projected`: x is the output of `first`, [B, L, 2E]."""
        if self.one_operator:
            return self._as_one_operator(x if projected else self.in_proj(x))
        learned, x = apply_order(self.order, x)
        x, z = self.in_proj(x, apart=True)  # [B, L, E] each
        if not self.convolves_along_path:
            x = nn.functional.silu(x if self.grid_conv is None else self.grid_conv(x))
        pads = None if self.pads is None else PadInputs(self.pads.table)
        return self.out_proj(self.along_route(x, z=z, pads=pads, learned=learned))  # type: ignore[no-any-return]

    def _as_one_operator(self, xz: Tensor) -> Tensor:
        """Run all paths by one operator, which also computes out_proj if the merge is a plain sum."""
        branches = [cast(MambaBranch, self._branch(k)) for k in range(self.path_count)]
        paths = cast(Sequence[ScanPath], self.scan_paths)
        parameters = zip(*(branch.parameters_of_scan for branch in branches), strict=True)
        y = mamba_inner(
            xz, *map(_stack_tensors, parameters), path=_stack_tensors([path.path for path in paths]),
            segment_starts=_stack_tensors([path.segment_starts for path in paths]),
            out_proj=self.out_proj.weight if self.sums else None, backend=self.backend,
        )  # fmt: skip
        return y if self.sums else self.out_proj(self.merge(y.unbind(0)))


def _stack_tensors(tensors: Sequence[Tensor | None]) -> Any:
    """K tensors stacked to one [K, ...]; None if they are None."""
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) in (0, len(tensors))
    if not present:
        return None
    return present[0][None] if len(present) == 1 else torch.stack(present)
