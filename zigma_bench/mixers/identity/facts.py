"""The identity as a mixer: options, checks and cost. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import merge_parameters, refuse_unused, with_order
from zigma_bench.mixers.mamba.facts import MambaOptions, check_mamba
from zigma_bench.plugins.registry import Cost
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


@dataclass(frozen=True)
class IdentityOptions:
    """Mamba's mixer without its convolution and its scan: a control in which no token learns of another."""


def identity_cost(options: IdentityOptions, *, block: BlockOptions, grid: Grid, route: Route) -> Cost:
    """One identity mixer: Mamba's two projections of a layer, and the merge."""
    D, E, L, K = block.width, block.inner, grid.tokens, route.K
    merge = merge_parameters(route, E)
    flops = {"in_proj": 4 * L * D * E, "merge": 2 * K * K * E if merge else 0, "out_proj": 2 * L * E * D}
    parts = {"in_proj": 2 * D * E, "merge": merge, "out_proj": D * E}
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_identity(options: IdentityOptions, *, block: BlockOptions, grid: Grid, route: Route) -> None:
    """Groups of channels must divide, and what only Mamba has a use for stays at its default."""
    refuse_unused("identity", block, ("state", "conv"))
    check_mamba(MambaOptions(), block=block, grid=grid, route=route)
