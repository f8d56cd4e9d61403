"""Linear attention as a mixer: options, checks, cost and activation memory. This module doesn't import torch.

L tokens, D width, K paths of a layer, F channels and S steps of a path, h heads of c channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zigma_bench.errors import NotReady
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
from zigma_bench.mixers.memory import merge_memory, number_bytes, refuse_learned_order
from zigma_bench.plugins.registry import Cost, sum_by_name
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


@dataclass(frozen=True)
class LinearAttentionOptions:
    """Linear attention in both directions: each token reads one sum over all tokens, so their order doesn't matter.

    `heads`: the number of heads of one path; by default one per 64 channels, or per 32 if 64 doesn't divide them.
    `feature_map`: the positive function of queries and keys that replaces the exponential of softmax, elu(x) + 1 or
    ReLU.
    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), equations 5 and 7; ReLU: SANA (arXiv 2410.10629) and LiT
    (arXiv 2501.12976), whose convolutions are left out here.
    """

    heads: Positive | None = None
    feature_map: Literal["elu", "relu"] = "elu"


def linear_attention_cost(options: LinearAttentionOptions, *, block: BlockOptions, grid: Grid, route: Route) -> Cost:
    """The cost of one linear-attention mixer, with one branch per path or one for all; pads attend like tokens."""
    D, K, S = block.width, route.K, route.steps
    F, branches = path_channels(route, D), branch_count(route)
    c = F // head_count(F, options.heads)
    merge = merge_cost(route, channels=D, grid=grid)
    parts = {
        "pads": route.pad_rows * D,
        "attention_proj": branches * (3 * F * F + 3 * F) + D * D + D,
        "attention": branches * route.features * F,  # a vector per step id
        "merge": merge.parameters,
    }
    flops = {
        "attention_proj": K * 6 * S * F * F + 2 * grid.tokens * D * D,
        "attention": K * (4 * S * F * c + 2 * S * F),  # keys by values, queries by that, and queries by keys
        "merge": merge.total_flops,
    }
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_linear_attention(options: LinearAttentionOptions, *, block: BlockOptions, grid: Grid, route: Route) -> None:
    """NotReady unless the merge fits the width, the heads divide a path's channels, each path has one segment, and
    Mamba's options are default."""
    refuse_unused("linear-attention", block, ("expand", "state", "conv"))
    check_merge_fits(route, block.width)
    head_count(path_channels(route, block.width), options.heads)
    if route.segments is not None:
        raise NotReady(
            "linear attention sums over all steps of a path, and this scan divides its paths into segments",
            expected="paths of one segment",
            got=f"{len(route.segments[0])} segments",
            do="use the mixer attention, or another scan",
        )


def linear_attention_memory(
    options: LinearAttentionOptions, *, block: BlockOptions, grid: Grid, route: Route, backend: str, precision: str
) -> dict[str, int]:
    """The activation memory of one linear-attention mixer, in bytes by operator."""
    refuse_learned_order(route)
    n, D, L, S = number_bytes(precision, backend), block.width, grid.tokens, route.steps
    F = path_channels(route, D)
    heads = head_count(F, options.heads)
    rows = {"elu": 6, "relu": 5}[options.feature_map]  # v, numerators, f(q), f(k) / S, and what f saves
    values = rows * F * S + F * (F // heads) + F + heads * S  # and both sums, and the denominators
    path = {"attention_proj": n * S * F, "attention": n * values}
    return sum_by_name([*[path] * route.K, merge_memory(route, n, L, D), {"attention_proj": n * L * D}])
