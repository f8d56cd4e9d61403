"""Parameters and FLOPs by formula, without building a network: what is counted, and what all mixers share. No torch.

One multiply-add is 2 FLOPs. Counted: matrix products, the products of attention, the taps of convolutions (including
those before the start of a path, which are zeros), and the state updates of a scan (`ops/counts.py`; with 128 states,
Mamba-2's chunks of 64 steps do as many). Not counted: elementwise operations, a few FLOPs a value, such as biases,
positions, norms, activations, softmax and its scale, shifts, scales, gates, residuals, sums and means of paths, and of
a scan D u, d u and softplus. tests/backbones/test_counts.py counts the operations of the plain code one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.errors import NotReady
from zigma_bench.mixers.block import DEFAULTS, BlockOptions
from zigma_bench.plugins.registry import Cost, add_costs
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


def branch_count(route: Route) -> int:
    """The sets of parameters of a layer: one for each path, or one for all."""
    return route.K if route.share == "separate" else 1


def path_channels(route: Route, channels: int) -> int:
    """The channels that one path works on: its own group of them, or all."""
    return channels // route.K if route.merge_facts.splits_channels else channels


def check_merge_fits(route: Route, channels: int) -> None:
    """Raise NotReady for a route whose merge can't serve so many channels."""
    if route.merge_facts.check is not None:
        route.merge_facts.check(route=route, channels=channels)


def merge_cost(route: Route, *, channels: int, grid: Grid) -> Cost:
    """The cost of a layer's merge."""
    return route.merge_facts.cost(paths=route.K, channels=channels, tokens=grid.tokens)


def with_order(mixer: Cost, route: Route, *, width: int, grid: Grid) -> Cost:
    """The mixer's cost, and that of the module that makes a learned order."""
    if route.learned is None:
        return mixer
    order: Cost = route.learned.cost(route.learned.make_options(route.learned.options), width=width, grid=grid)
    return add_costs([mixer, Cost.of({"order": order.parameters}, {"order": order.total_flops})])


def refuse_unused(mixer: str, block: BlockOptions, names: Sequence[str]) -> None:
    """Raise NotReady for a value of an option that the mixer does not read, unless it is the default."""
    for name in names:
        value, default = getattr(block, name), DEFAULTS[name]
        if value != default:
            raise NotReady(
                f"the mixer {mixer} has no use for the backbone's option {name}",
                expected=f"{default} (its default)",
                got=value,
                do="leave it out, or take another mixer",
            )
