"""DiT and SiT: options, named sizes, checks, cost and activation memory. This module doesn't import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zigma_bench.layers.costs import (
    check_condition,
    check_positions,
    condition_cost,
    patch_embed_cost,
    positions_cost,
    refuse_clips,
    refuse_uncounted_memory,
    time_embed_cost,
)
from zigma_bench.layers.options import Depth, Labelled, PositionKind, Positive, head_count
from zigma_bench.mixers.memory import WIDE, number_bytes
from zigma_bench.plugins.registry import Cost, add_costs, sum_by_name
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

# Table 1 of the DiT paper.
DIT_SIZES = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}


@dataclass(frozen=True)
class DitOptions(Labelled):
    """DiT: adaLN-Zero blocks of softmax attention and an MLP; the control without a token order (arXiv 2212.09748)."""

    width: Positive
    depth: Depth
    patch: Positive
    heads: Positive | None = None
    mlp_ratio: Positive = 4
    learn_sigma: bool = False
    positions: PositionKind = "sincos"

    @property
    def head_count(self) -> int:
        """The option `heads`; by default one head per 64 channels, or per 32 if 64 doesn't divide the width."""
        return head_count(self.width, self.heads)


@dataclass(frozen=True)
class SitOptions(DitOptions):
    """SiT: DiT trained on an interpolant, with t itself as the time input (arXiv 2401.08740)."""


def dit_cost(options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of DiT. It doesn't depend on the routes."""
    D, L, M = options.width, grid.tokens, options.mlp_ratio * options.width
    pixel = options.patch**2 * channels
    out = pixel * (2 if options.learn_sigma else 1)
    layer = Cost.of(
        {"adaln": 6 * D * D + 6 * D, "attention_proj": 4 * D * D + 4 * D, "mlp": 2 * D * M + M + D},
        {"adaln": 12 * D * D, "attention_proj": 8 * L * D * D, "attention": 4 * L * L * D, "mlp": 4 * L * D * M},
    )
    head = Cost.of({"adaln": 2 * D * D + 2 * D, "final": D * out + out}, {"adaln": 4 * D * D, "final": 2 * L * D * out})
    positions = positions_cost(options.positions, D, L)
    ends = [patch_embed_cost(D, L, pixel), positions, time_embed_cost(D), condition_cost(options, D)]
    return add_costs([*ends, *[layer] * options.depth, head])


def check_dit(options: DitOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """NotReady unless the heads divide the width, the positions fit it, and the grid is a single image."""
    check_condition(options)
    _ = options.head_count
    refuse_clips("dit and sit", grid)
    check_positions(options.positions, width=options.width, grid=grid)


def dit_memory(
    options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str, precision: str
) -> dict[str, int]:
    """The activation memory of DiT, in bytes by part, for an attention that doesn't store the L x L matrix."""
    refuse_uncounted_memory(options)
    n, D, L, M = number_bytes(precision, backend), options.width, grid.tokens, options.mlp_ratio * options.width
    layer = {
        "norm": 2 * WIDE * L * D,
        "adaln": 2 * (WIDE * L * D + n * L * D) + n * 7 * D,
        "attention_proj": n * L * D,
        "attention": n * 4 * L * D + WIDE * L * options.head_count,
        "mlp": n * L * (D + 2 * M),
    }
    ends = {
        "patch_embed": n * L * options.patch**2 * channels,
        "final": 2 * WIDE * L * D + n * L * D,
    }
    return sum_by_name([ends, *[layer] * options.depth])
