"""The identity as a mixer along a route: Mamba's mixer without convolution and scan.

The remaining parts process each token separately, so the order of the tokens can't matter. This mixer is a control: it
shows what the projections and the gate contribute without a sequence operator. It is also a null test of the route,
because rows are gathered along the paths and scattered back. Pads and step ids have no effect.

B batch, L tokens, D width, E inner channels, K paths.
"""

from __future__ import annotations

from torch import Tensor, nn

from zigma_bench.mixers.along_route import GatheringBranch, RoutedBranches
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.identity.facts import IdentityOptions
from zigma_bench.mixers.learned_order import apply_order, make_order
from zigma_bench.mixers.mamba.mixer import OutProjection
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


class IdentityBranch(GatheringBranch):
    """Returns the rows unchanged."""

    def mix_rows(self, x: Tensor, segment_starts: Tensor | None, features: Tensor | None) -> Tensor:
        return x


class IdentityMixer(nn.Module):
    """x [B, L, D] -> [B, L, D]: out_proj(merge(rows of x along each path) * SiLU(z)), with x and z from in_proj."""

    def __init__(
        self, options: IdentityOptions, *, block: BlockOptions, grid: Grid, route: Route, backend: str
    ) -> None:
        super().__init__()
        E = block.inner
        self.order = make_order(route, width=block.width, grid=grid)
        self.in_proj = nn.Linear(block.width, 2 * E, bias=False)
        self.routed = RoutedBranches(route, lambda number: IdentityBranch(), channels=E, learned_pads=False)
        self.out_proj = OutProjection(E, block.width, block.depth)

    def forward(self, x: Tensor) -> Tensor:
        learned, x = apply_order(self.order, x)
        x, z = self.in_proj(x).chunk(2, dim=-1)  # [B, L, E] each
        return self.out_proj(self.routed(x, learned) * nn.functional.silu(z))  # type: ignore[no-any-return]
