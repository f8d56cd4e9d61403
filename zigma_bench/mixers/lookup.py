"""Find the mixer of a block by name, build it, compute its cost, and check it. This module doesn't import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zigma_bench.errors import NotReady
from zigma_bench.plugins.discovery import find_spec
from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

if TYPE_CHECKING:
    from torch import nn

    from zigma_bench.mixers.block import BlockOptions


def find_mixer(chosen: str | Mapping[str, Any]) -> tuple[Spec, Any]:
    """The spec and the options of a mixer: a name, or a mapping of name and options as a plan resolves it."""
    name = chosen if isinstance(chosen, str) else chosen["name"]
    spec = find_spec("mixer", name)
    options = {} if isinstance(chosen, str) else chosen["options"]
    return spec, spec.make_options(spec.resolve(options, where=f"mixer {name!r}"))


def make_mixer(block: BlockOptions, *, grid: Grid, route: Route, backend: str) -> nn.Module:
    """One layer's mixer, [B, L, D] -> [B, L, D]."""
    spec, options = find_mixer(block.mixer)
    mixer: nn.Module = spec.load()(options, block=block, grid=grid, route=route, backend=backend)
    return mixer


def mixer_cost(block: BlockOptions, *, grid: Grid, route: Route) -> Cost:
    """The cost of one layer's mixer by its formula."""
    spec, options = find_mixer(block.mixer)
    cost: Cost = spec.facts.cost(options, block=block, grid=grid, route=route)
    return cost


def mixer_memory(block: BlockOptions, *, grid: Grid, route: Route, backend: str, precision: str) -> dict[str, int]:
    """The activation memory of one layer's mixer, bytes by operator; NotReady for a mixer without an estimate."""
    spec, options = find_mixer(block.mixer)
    if spec.facts.memory is None:
        raise NotReady(f"the mixer {spec.name!r} of {spec.owner} has no estimate of its activation memory")
    memory = spec.facts.memory(options, block=block, grid=grid, route=route, backend=backend, precision=precision)
    return dict(memory)


def check_mixer_fits(block: BlockOptions, *, grid: Grid, route: Route) -> None:
    """Raise NotReady for a route that the mixer can't follow."""
    spec, options = find_mixer(block.mixer)
    if spec.facts.check is not None:
        spec.facts.check(options, block=block, grid=grid, route=route)
