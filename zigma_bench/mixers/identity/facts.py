"""The identity as a mixer: options, checks and cost. This module doesn't import torch."""

from __future__ import annotations

from dataclasses import dataclass

from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import check_merge_fits, merge_cost, refuse_unused, with_order
from zigma_bench.plugins.registry import Cost
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


@dataclass(frozen=True)
class IdentityOptions:
    """Mamba's mixer without convolution and scan: a control in which tokens don't exchange information."""


def identity_cost(options: IdentityOptions, *, block: BlockOptions, grid: Grid, route: Route) -> Cost:
    """The cost of one identity mixer: Mamba's two projections, and the merge."""
    D, E, L = block.width, block.inner, grid.tokens
    merge = merge_cost(route, channels=E, grid=grid)
    flops = {"in_proj": 4 * L * D * E, "merge": merge.total_flops, "out_proj": 2 * L * E * D}
    parts = {"in_proj": 2 * D * E, "merge": merge.parameters, "out_proj": D * E}
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_identity(options: IdentityOptions, *, block: BlockOptions, grid: Grid, route: Route) -> None:
    """NotReady unless the merge fits the inner channels and the options of Mamba's scan are at their defaults."""
    refuse_unused("identity", block, ("state", "conv"))
    check_merge_fits(route, block.inner)
