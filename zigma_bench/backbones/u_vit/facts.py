"""U-ViT: options, named sizes, checks and cost. This module doesn't import torch.

L tokens, D width, P prefix tokens, C channels, p patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zigma_bench.errors import NotReady
from zigma_bench.layers.costs import (
    check_condition,
    check_positions,
    condition_cost,
    patch_embed_cost,
    positions_cost,
    refuse_clips,
)
from zigma_bench.layers.options import Depth, PositionKind, Positive, WithText, head_count
from zigma_bench.plugins.registry import Cost, add_costs
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

# Table 1 of the U-ViT paper.
UVIT_SIZES = {
    "S": {"width": 512, "depth": 13, "heads": 8},
    "M": {"width": 768, "depth": 17, "heads": 12},
    "L": {"width": 1024, "depth": 21, "heads": 16},
    "H": {"width": 1152, "depth": 29, "heads": 16},
}


@dataclass(frozen=True, kw_only=True)
class UvitOptions(WithText):
    """U-ViT: attention over patches, time and condition as tokens, with long skips (arXiv 2209.12152)."""

    width: Positive
    depth: Depth
    patch: Positive
    heads: Positive | None = None
    mlp_ratio: Positive = 4
    null_class: bool = True
    positions: PositionKind = "learned"

    @property
    def head_count(self) -> int:
        return head_count(self.width, self.heads)

    @property
    def prefix(self) -> int:
        """The number of prefix tokens: one for time, plus the class token or the text tokens."""
        return 1 + {"none": 0, "class": 1, "text": self.text_tokens}[self.condition]


def uvit_cost(options: UvitOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of U-ViT. It doesn't depend on the routes."""
    D, P, M = options.width, options.prefix, options.mlp_ratio * options.width
    depth, half, pixel = options.depth, options.depth // 2, options.patch**2 * channels
    L, S = grid.tokens, grid.tokens + P
    layer = Cost.of(
        {"norm": 4 * D, "attention_proj": 4 * D * D + D, "mlp": 2 * D * M + M + D},
        {"attention_proj": 8 * S * D * D, "attention": 4 * S * S * D, "mlp": 4 * S * D * M},
    )
    positions = positions_cost(options.positions, D, S)
    skips = Cost.of({"skip": half * (2 * D * D + D)}, {"skip": half * 4 * S * D * D})
    final = Cost.of(
        {"final": 2 * D + (D * pixel + pixel) + (9 * channels * channels + channels)},
        {"final": 2 * L * D * pixel + 18 * L * options.patch**2 * channels * channels},
    )
    ends = [patch_embed_cost(D, L, pixel), condition_cost(options, D), positions]
    return add_costs([*ends, *[layer] * depth, skips, final])


def check_uvit(options: UvitOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """NotReady unless the heads divide the width, the width is even, the depth is odd, and the grid is one image."""
    check_condition(options)
    _ = options.head_count
    if options.depth % 2 == 0:
        raise NotReady(
            "u-vit pairs early and late blocks around one middle block",
            expected="an odd depth",
            got=options.depth,
            do=f"choose {options.depth - 1} or {options.depth + 1}",
        )
    if options.width % 2:
        raise NotReady(f"the time embedding needs an even width for its sines and cosines, and {options.width} is odd")
    refuse_clips("u-vit", grid)
    check_positions(options.positions, width=options.width, grid=grid)
