"""The routes of all layers of a network: call a scan for each layer, check the routes and cache them."""

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
from zigma_bench.system.interrupts import contain_plugin, words_of

RESERVED = ("grid", "layer", "depth", "seed")
MOST_LAYERS = 10_000
CACHED_CALLS = 64  # the largest plans contain a few dozen scans


class ScanSpec(Protocol):
    """The part of `registry.Spec` that this module needs."""

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


def layer_routes(
    spec: ScanSpec, *, grid: Grid, depth: int, seed: int = 0, options: Mapping[str, Any] | None = None
) -> tuple[Route, ...]:
    """The checked route of each of `depth` layers. Equal routes are the same object. `options`: resolved values.

    Calls are cached, because a scan is a pure function of its arguments. Raises the scan's own error if it refuses its
    arguments (such as NotReady for a grid), and BrokenScan if it fails or doesn't return an order. The error names
    the scan, its owner and the layer.
    """
    if depth < 1:
        raise UsageError("a network needs at least one layer", got=depth)
    if depth > MOST_LAYERS:
        raise UsageError("the network is too deep", expected=f"a depth of at most {MOST_LAYERS:,}", got=depth)
    options = dict(options or {})
    if spec.facts is not None:
        return learned_routes(spec, grid=grid, depth=depth, options=options)
    function = spec.load()
    seed = seed if "seed" in inspect.signature(function).parameters else 0
    key = json.dumps(options, sort_keys=True, default=repr)
    return _call_for_layers(_Request(spec.name, spec.owner, function, grid, depth, seed, key, options))


def fresh_routes(spec: ScanSpec, *, grid: Grid, depth: int, seed: int, options: Mapping[str, Any]) -> tuple[Route, ...]:
    """Like `layer_routes`, but not cached and from the last layer to the first, to check that the scan is pure."""
    if spec.facts is not None:
        return learned_routes(spec, grid=grid, depth=depth, options=options)
    request = _Request(spec.name, spec.owner, spec.load(), grid, depth, seed, "", options)
    return tuple(_call_for_layer(request, layer) for layer in reversed(range(depth)))[::-1]


def learned_routes(spec: ScanSpec, *, grid: Grid, depth: int, options: Mapping[str, Any]) -> tuple[Route, ...]:
    """The routes of a scan with a learned order, which depends on the features. The module isn't imported."""
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
    """One call of `layer_routes`. It is hashable, because `key` is the options as JSON."""

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


@functools.lru_cache(maxsize=CACHED_CALLS)
def _call_for_layers(request: _Request) -> tuple[Route, ...]:
    known: dict[str, Route] = {}
    if "layer" not in inspect.signature(request.function).parameters:
        return (_call_for_layer(request, 0),) * request.depth
    found = (_call_for_layer(request, layer) for layer in range(request.depth))
    return tuple(known.setdefault(route.digest, route) for route in found)


def _call_for_layer(request: _Request, layer: int) -> Route:
    """Call the scan for one layer, convert the result to a route, and check it."""
    who = request.who(layer)
    try:
        with contain_plugin():
            value = _call_scan(request, layer)
        route = value if isinstance(value, Route) else Route(value)
    except ZigmaBenchError as error:
        error.where = f"{who}, {error.where}" if error.where else who
        raise
    except Exception as error:  # a plugin may raise anything; the error must name the plugin
        raise BrokenScan(
            f"the scan failed on the grid {request.grid} with {words_of(error)}",
            where=who,
            do="fix the scan, or refuse the grid with zigma_bench.errors.NotReady",
        ) from error
    route.check(request.grid, who)
    return route


def _call_scan(request: _Request, layer: int) -> Any:
    values = {"grid": request.grid, "layer": layer, "depth": request.depth, "seed": request.seed}
    named = inspect.signature(request.function).parameters
    reserved = {name: values[name] for name in RESERVED if name in named}
    return request.function(**reserved, **request.options)
