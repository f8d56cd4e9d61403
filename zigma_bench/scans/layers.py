"""The routes of all layers of a network: a scan called layer by layer, put into form, checked and remembered."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from zigma_bench.errors import UsageError, ZigmaBenchError
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import BrokenScan, LearnedOrder, Route
from zigma_bench.system.interrupts import contained, words_of

RESERVED = ("grid", "layer", "depth", "seed")
MOST_LAYERS = 10_000
REMEMBERED = 64  # calls; the largest plans hold some tens of scans


class ScanSpec(Protocol):
    """What is needed of a registered scan (`registry.Spec` has it)."""

    @property
    def name(self) -> str: ...

    @property
    def owner(self) -> str: ...

    @property
    def target(self) -> str | Callable[..., Any]: ...

    @property
    def facts(self) -> Any: ...

    def load(self) -> Callable[..., Any]: ...

    def make_options(self, values: Mapping[str, Any]) -> Any: ...


def routes(
    spec: ScanSpec, *, grid: Grid, depth: int, seed: int = 0, options: Mapping[str, Any] | None = None
) -> tuple[Route, ...]:
    """The checked route of each of `depth` layers; equal routes are one object. `options`: resolved values.

    Calls are remembered, for a scan is a pure function of its arguments. Raises what the scan refuses with (such as
    NotReady for a geometry), and BrokenScan for a scan that fails or gives no order; both name scan, owner and layer.
    """
    if depth < 1:
        raise UsageError("a network has at least one layer", got=depth)
    if depth > MOST_LAYERS:
        raise UsageError("the network is too deep", expected=f"a depth of at most {MOST_LAYERS:,}", got=depth)
    options = dict(options or {})
    if spec.facts is not None:
        return learned_routes(spec, grid=grid, depth=depth, options=options)
    function = spec.load()
    seed = seed if "seed" in inspect.signature(function).parameters else 0
    key = json.dumps(options, sort_keys=True, default=repr)
    return _routes(_Request(spec.name, spec.owner, function, grid, depth, seed, key, options))


def fresh_routes(spec: ScanSpec, *, grid: Grid, depth: int, seed: int, options: Mapping[str, Any]) -> tuple[Route, ...]:
    """As `routes`, but calling the scan anew, last layer first: what a pure function does not notice."""
    if spec.facts is not None:
        return learned_routes(spec, grid=grid, depth=depth, options=options)
    request = _Request(spec.name, spec.owner, spec.load(), grid, depth, seed, "", options)
    return tuple(_route(request, layer) for layer in reversed(range(depth)))[::-1]


def learned_routes(spec: ScanSpec, *, grid: Grid, depth: int, options: Mapping[str, Any]) -> tuple[Route, ...]:
    """The routes of a scan whose order a module makes of each sample's features; nothing is imported."""
    assert isinstance(spec.target, str), spec.target
    facts, plain = spec.facts, json.loads(json.dumps(dict(options)))
    if facts.check is not None:
        facts.check(spec.make_options(plain), grid=grid)
    raster = np.tile(np.arange(grid.tokens), (facts.paths, 1))
    return tuple(
        Route(raster, learned=LearnedOrder(spec.target, plain, layer, depth, facts.cost, spec.load, spec.make_options))
        for layer in range(depth)
    )


@dataclass(frozen=True)
class _Request:
    """One call of `routes`, hashable: options stand as JSON for comparison."""

    name: str
    owner: str
    function: Callable[..., Any]
    grid: Grid
    depth: int
    seed: int
    key: str
    options: Mapping[str, Any] = field(compare=False)

    def who(self, layer: int) -> str:
        return f"scan {self.name!r} of {self.owner}, layer {layer}"


@functools.lru_cache(maxsize=REMEMBERED)
def _routes(request: _Request) -> tuple[Route, ...]:
    known: dict[str, Route] = {}
    if "layer" not in inspect.signature(request.function).parameters:
        return (_route(request, 0),) * request.depth
    found = (_route(request, layer) for layer in range(request.depth))
    return tuple(known.setdefault(route.digest, route) for route in found)


def _route(request: _Request, layer: int) -> Route:
    """One layer's route: called, put into form, checked."""
    who = request.who(layer)
    try:
        with contained():
            value = _call(request, layer)
        route = value if isinstance(value, Route) else Route(value)
    except ZigmaBenchError as error:
        error.where = f"{who}, {error.where}" if error.where else who
        raise
    except Exception as error:  # a plugin may raise anything; the plan must say whose it is
        raise BrokenScan(
            f"the scan failed on the grid {request.grid} with {words_of(error)}",
            where=who,
            do="mend the scan, or refuse the grid with zigma_bench.errors.NotReady",
        ) from error
    route.check(request.grid, who)
    return route


def _call(request: _Request, layer: int) -> Any:
    values = {"grid": request.grid, "layer": layer, "depth": request.depth, "seed": request.seed}
    named = inspect.signature(request.function).parameters
    reserved = {name: values[name] for name in RESERVED if name in named}
    return request.function(**reserved, **request.options)
