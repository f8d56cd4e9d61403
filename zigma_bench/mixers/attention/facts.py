"""Softmax attention as a mixer: options, checks and cost. This module doesn't import torch.

D width, K paths of a layer, F channels and S steps of a path. All pairs of steps are counted even with a mask, because
attention computes them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from zigma_bench.layers.options import Positive, head_count
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import (
    branch_count,
    check_merge_fits,
    merge_cost,
    path_channels,
    refuse_unused,
    with_order,
)
from zigma_bench.plugins.registry import Cost
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


@dataclass(frozen=True)
class AttentionOptions:
    """Softmax attention along each path of the layer's route; the order of the tokens doesn't change its output.

    `heads`: the number of heads of one path; by default one per 64 channels, or per 32 if 64 doesn't divide them.
    """

    heads: Positive | None = None


def attention_cost(options: AttentionOptions, *, block: BlockOptions, grid: Grid, route: Route) -> Cost:
    """The cost of one attention mixer, with one branch per path or one for all; pads attend like tokens."""
    D, K, S = block.width, route.K, route.steps
    F, branches = path_channels(route, D), branch_count(route)
    merge = merge_cost(route, channels=D, grid=grid)
    parts = {
        "pads": route.pad_rows * D,
        "attention_proj": branches * (3 * F * F + 3 * F) + D * D + D,
        "attention": branches * route.features * F,  # a vector per step id
        "merge": merge.parameters,
    }
    flops = {
        "attention_proj": K * 6 * S * F * F + 2 * grid.tokens * D * D,
        "attention": K * 4 * S * S * F,
        "merge": merge.total_flops,
    }
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_attention(options: AttentionOptions, *, block: BlockOptions, grid: Grid, route: Route) -> None:
    """NotReady unless the merge fits the width, the heads divide a path's channels, and Mamba's options are default."""
    refuse_unused("attention", block, ("expand", "state", "conv"))
    check_merge_fits(route, block.width)
    head_count(path_channels(route, block.width), options.heads)
