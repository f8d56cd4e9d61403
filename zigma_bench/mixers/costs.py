"""Parameters and FLOPs by formula, without building a network: the operations that count, and costs that all mixers
share. This module doesn't import torch.

One multiply-add is 2 FLOPs. Counted: matrix products, the products of attention, the taps of convolutions (including
the zeros before the start of a path), and the state updates of a scan (`ops/counts.py`; with 128 states, Mamba-2's
chunks of 64 steps have as many FLOPs). Not counted: elementwise operations, which are a few FLOPs per value: biases,
positions, norms, activations, softmax and its scale, shifts, scales, gates, residuals, sums and means of paths, and in
a scan D u, d u and softplus. tests/backbones/test_counts.py compares the formulas with counts of plain code.
"""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.errors import NotReady
from zigma_bench.mixers.block import DEFAULTS, BlockOptions
from zigma_bench.plugins.registry import Cost, add_costs
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


def branch_count(route: Route) -> int:
    """The number of parameter sets of a layer: one per path, or one for all."""
    return route.K if route.share == "separate" else 1


def path_channels(route: Route, channels: int) -> int:
    """The number of channels that one path processes: its own group, or all."""
    return channels // route.K if route.merge_facts.splits_channels else channels


def check_merge_fits(route: Route, channels: int) -> None:
    """Raise NotReady if the route's merge doesn't support so many channels."""
    if route.merge_facts.check is not None:
        route.merge_facts.check(route=route, channels=channels)


def merge_cost(route: Route, *, channels: int, grid: Grid) -> Cost:
    """The cost of a layer's merge."""
    return route.merge_facts.cost(paths=route.K, channels=channels, tokens=grid.tokens)


def with_order(mixer: Cost, route: Route, *, width: int, grid: Grid) -> Cost:
    """The cost of a mixer, plus that of the module that computes a learned order, if any."""
    if route.learned is None:
        return mixer
    order: Cost = route.learned.cost(route.learned.make_options(route.learned.options), width=width, grid=grid)
    return add_costs([mixer, Cost.of({"order": order.parameters}, {"order": order.total_flops})])


def refuse_unused(mixer: str, block: BlockOptions, names: Sequence[str]) -> None:
    """Raise NotReady for options that this mixer doesn't use, if they aren't at their defaults."""
    for name in names:
        value, default = getattr(block, name), DEFAULTS[name]
        if value != default:
            raise NotReady(
                f"the mixer {mixer} doesn't use the backbone's option {name}",
                expected=f"{default} (its default)",
                got=value,
                do="leave it out, or use another mixer",
            )
