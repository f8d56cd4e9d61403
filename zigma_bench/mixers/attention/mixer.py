"""Softmax attention as a mixer along a route: a null test of the scan order.

Attention doesn't depend on the order of its rows, and positions are added before the scan. So its output is the same
for all paths that visit every token once in one segment. The rows are still gathered and scattered back, which the null
test checks. Segments, parts of a scatter and groups of channels attend only to themselves. A pad is a learned row of
the mixer's input. The vector of a step's id is added to its key (in Mamba it is added to B).

B batch, L tokens, S steps, C channels of a path, D width, h heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zigma_bench.layers.attention import XavierLinear
from zigma_bench.layers.init import Draw, normal_
from zigma_bench.layers.options import head_count
from zigma_bench.mixers.along_route import GatheringBranch, RoutedBranches
from zigma_bench.mixers.attention.facts import AttentionOptions
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import path_channels
from zigma_bench.mixers.learned_order import apply_order, make_order
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


class AttentionBranch(GatheringBranch):
    """One path's projections and attention: [B, S, C] -> [B, S, C]."""

    def __init__(self, channels: int, heads: int, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = XavierLinear(channels, 3 * channels)
        self.ids = StepKeys(features, channels) if features else None

    def mix_rows(self, x: Tensor, segment_starts: Tensor | None, features: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.ids is not None:
            assert features is not None
            k = self.ids(k, features)
        q, k, v = (torch.unflatten(part, -1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # [B, h, S, C/h]
        mask = (
            None if segment_starts is None else segment_starts[:, None] == segment_starts
        )  # [S, S]: whether two steps are in the same segment
        y: Tensor = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).flatten(2)


class StepKeys(nn.Module):
    """Adds a learned vector per step id to the keys [B, S, C]."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(features, channels))

    def init_parameters(self, draw: Draw) -> None:
        normal_(self.table, 0.02, draw("table"))

    def forward(self, k: Tensor, features: Tensor) -> Tensor:
        return k + self.table[features].to(k.dtype)


class AttentionMixer(nn.Module):
    """x [B, L, D] -> [B, L, D] along one layer's route: a branch per path or one for all, merged before `out_proj`."""

    def __init__(
        self, options: AttentionOptions, *, block: BlockOptions, grid: Grid, route: Route, backend: str
    ) -> None:
        super().__init__()
        D = block.width
        channels = path_channels(route, D)
        heads = head_count(channels, options.heads)
        self.order = make_order(route, width=D, grid=grid)

        def make_branch(number: int) -> AttentionBranch:
            return AttentionBranch(channels, heads, route.features)

        self.routed = RoutedBranches(route, make_branch, channels=D, learned_pads=True)
        self.out = XavierLinear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        learned, x = apply_order(self.order, x)
        return self.out(self.routed(x, learned))  # type: ignore[no-any-return]
