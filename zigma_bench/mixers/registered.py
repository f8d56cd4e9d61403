"""The mixer of a block by its name: Mamba's, or one that a plugin registered. No torch here: plans price mixers too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

if TYPE_CHECKING:
    from torch import nn

    from zigma_bench.mixers.block import BlockOptions


def find_mixer(chosen: str | Mapping[str, Any]) -> tuple[Spec, Any]:
    """The spec and the options of a mixer: a name, or a mapping of name and options as a plan resolves it."""
    from zigma_bench.plugins.discovery import catalogue

    name = chosen if isinstance(chosen, str) else chosen["name"]
    spec = catalogue().get("mixer", name)
    given = {} if isinstance(chosen, str) else chosen["options"]
    return spec, spec.make_options(spec.resolve(given, where=f"mixer {name!r}"))


def make_mixer(block: BlockOptions, *, grid: Grid, route: Route, backend: str) -> nn.Module:
    """One layer's mixer, [B, L, D] -> [B, L, D]."""
    spec, options = find_mixer(block.mixer)
    mixer: nn.Module = spec.load()(options, block=block, grid=grid, route=route, backend=backend)
    return mixer


def mixer_cost(block: BlockOptions, *, grid: Grid, route: Route) -> Cost:
    """The cost of one layer's mixer, as its spec says."""
    spec, options = find_mixer(block.mixer)
    cost: Cost = spec.facts.cost(options, block=block, grid=grid, route=route)
    return cost


def mixer_kept(block: BlockOptions, *, grid: Grid, route: Route, backend: str, precision: str) -> dict[str, int]:
    """The bytes that a training step keeps of one layer's mixer, by operator; NotReady where its spec does not say."""
    spec, options = find_mixer(block.mixer)
    if spec.facts.kept is None:
        raise NotReady(f"the mixer {spec.name!r} of {spec.owner} gives no estimate of the memory that it keeps")
    kept = spec.facts.kept(options, block=block, grid=grid, route=route, backend=backend, precision=precision)
    return dict(kept)


def check_mixer_fits(block: BlockOptions, *, grid: Grid, route: Route) -> None:
    """Raise NotReady for a route that the mixer can't follow."""
    spec, options = find_mixer(block.mixer)
    if spec.facts.check is not None:
        spec.facts.check(options, block=block, grid=grid, route=route)
