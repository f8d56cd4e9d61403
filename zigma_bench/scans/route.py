"""What one layer does with the tokens: a route, checked on the real grid, and the routes of all layers of a network.

A plugin only says in which order tokens are visited. The inverse, the checks and the digest are the framework's.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError
from zigma_bench.grid import Grid

Ints = npt.NDArray[np.int64]
Merge = Literal["sum", "mean"]
Share = Literal["separate", "shared"]
RESERVED = ("grid", "layer", "depth", "seed")


class BrokenScan(NotReady):
    """A scan gave something that is no order of the tokens, or failed in giving it."""


class ScanSpec(Protocol):
    """What is needed of a registered scan (`registry.Spec` has it)."""

    @property
    def name(self) -> str: ...

    @property
    def owner(self) -> str: ...

    def load(self) -> Callable[..., Any]: ...


@dataclass(frozen=True, eq=False)
class Route:
    """The paths of one layer, int64 [K, L], how their outputs merge, and whether they share parameters.

    `paths[k, i]` is the token that path k visits at step i. One path may be given as [L]. `share`: one set of
    parameters for all paths, or one a path (of no matter when K = 1). The array is a read-only copy.
    Raises BrokenScan for anything but whole numbers of one or two dimensions.
    """

    paths: Ints
    merge: Merge = "sum"
    share: Share = "separate"

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", _frozen(_as_paths(self.paths)))
        for name, allowed in (("merge", typing.get_args(Merge)), ("share", typing.get_args(Share))):
            if getattr(self, name) not in allowed:
                raise BrokenScan(
                    f"a route has an unknown {name}", expected=" or ".join(allowed), got=getattr(self, name)
                )

    @property
    def K(self) -> int:
        """The number of paths."""
        return len(self.paths)

    @property
    def tokens(self) -> int:
        """L, the steps of one path."""
        return int(self.paths.shape[1])

    @property
    def scanned_ratio(self) -> float:
        """Tokens scanned in the layer, over L."""
        return self.paths.size / self.tokens

    @cached_property
    def inverse(self) -> Ints:
        """int64 [K, L], read-only: `inverse[k, paths[k, i]] = i`. Meaningful for a checked route."""
        inverse = np.empty_like(self.paths)
        np.put_along_axis(inverse, self.paths, np.arange(self.tokens)[None], axis=1)
        return _frozen(inverse)

    @cached_property
    def digest(self) -> str:
        """sha256, 64 hex digits, of all fields: equal exactly when the routes are."""
        header = json.dumps({"merge": self.merge, "share": self.share, "shape": self.paths.shape}, sort_keys=True)
        return hashlib.sha256(header.encode() + b"\0" + self.paths.astype("<i8").tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Route) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def check(self, grid: Grid, who: str) -> None:
        """Raise BrokenScan, told as `who`, unless every path visits every token of the grid exactly once."""
        for number, path in enumerate(self.paths):
            fault = _fault(path, grid.tokens)
            if fault is not None:
                what, do = fault
                raise BrokenScan(
                    f"path {number}: {what}",
                    where=who,
                    expected=f"each of the {grid.tokens} tokens of the grid {grid} exactly once",
                    do=do,
                )


def _frozen(array: Ints) -> Ints:
    array.flags.writeable = False
    return array


def _as_paths(value: Any) -> Ints:
    """A fresh C-contiguous int64 [K, L] of what a scan gave."""
    try:
        array = np.asarray(value)
    except ValueError:  # NumPy's word for rows of unlike lengths
        raise BrokenScan("the paths have different lengths", expected="[L] or [K, L] whole numbers") from None
    if array.ndim not in (1, 2) or array.size == 0:
        raise BrokenScan(
            "the scan gave an array of a wrong shape",
            expected="[L] (one path) or [K, L] (several), not empty",
            got=array.shape,
            do="return one flat index a step" if array.size else "return at least one path",
        )
    if array.dtype.kind not in "iu":
        odd = (place for place, item in enumerate(array.flat) if not isinstance(item, int | np.integer))
        path, step = divmod(next(odd, 0), array.shape[-1])
        raise BrokenScan(
            f"path {path}: step {step} is no whole number but {array.reshape(-1, array.shape[-1])[path, step]!r}",
            expected="an array of whole numbers",
            got=str(array.dtype),
            do="build the path from whole numbers, such as np.arange gives",
        )
    return np.array(np.atleast_2d(array), dtype=np.int64, order="C")


def _fault(path: Ints, tokens: int) -> tuple[str, str] | None:
    """The first fault of one path and its mend, or None for a bijection."""
    outside = np.flatnonzero((path < 0) | (path >= tokens))
    if len(outside):
        step = int(outside[0])
        mend = "leave out pad tokens" if path[step] == -1 else "a flat index is (t*H + r)*W + c"
        return f"step {step} visits token {path[step]}, outside 0 to {tokens - 1}", mend
    first = np.full(tokens, len(path))
    np.minimum.at(first, path, np.arange(len(path)))
    again = np.flatnonzero(first[path] < np.arange(len(path)))
    never = np.flatnonzero(first == len(path))
    length = "" if len(path) == tokens else f"it has {len(path)} steps for {tokens} tokens; "
    missing = f"token {never[0]} is never visited" if len(never) else ""
    if len(again):
        step, token = int(again[0]), int(path[again[0]])
        twice = f"step {step} visits token {token} again, first visited at step {first[token]}"
        return length + twice + (f"; {missing}" if missing else ""), "visit no token twice"
    if len(never):
        return f"{length}{missing} (the path ends at step {len(path) - 1})", "visit the missing tokens too"
    return None


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


def routes(
    spec: ScanSpec, *, grid: Grid, depth: int, seed: int = 0, options: Mapping[str, Any] | None = None
) -> tuple[Route, ...]:
    """The checked route of each of `depth` layers; equal routes are one object. `options`: resolved values.

    Calls are remembered, for a scan is a pure function of its arguments. Raises what the scan refuses with (such as
    NotReady for a geometry), and BrokenScan for a scan that fails or gives no order; both name scan, owner and layer.
    """
    if depth < 1:
        raise UsageError("a network has at least one layer", got=depth)
    options = dict(options or {})
    key = json.dumps(options, sort_keys=True, default=repr)
    return _routes(_Request(spec.name, spec.owner, spec.load(), grid, depth, seed, key, options))


def fresh_routes(spec: ScanSpec, *, grid: Grid, depth: int, seed: int, options: Mapping[str, Any]) -> tuple[Route, ...]:
    """As `routes`, but calling the scan anew, last layer first: what a pure function does not notice."""
    request = _Request(spec.name, spec.owner, spec.load(), grid, depth, seed, "", options)
    return tuple(_route(request, layer) for layer in reversed(range(depth)))[::-1]


@functools.lru_cache(maxsize=256)
def _routes(request: _Request) -> tuple[Route, ...]:
    known: dict[str, Route] = {}
    found = (_route(request, layer) for layer in range(request.depth))
    return tuple(known.setdefault(route.digest, route) for route in found)


def _route(request: _Request, layer: int) -> Route:
    """One layer's route: called, put into form, checked."""
    who = request.who(layer)
    try:
        value = _call(request, layer)
        route = value if isinstance(value, Route) else Route(value)
    except ZigmaBenchError as error:
        error.where = f"{who}, {error.where}" if error.where else who
        raise
    except Exception as error:  # a plugin may raise anything; the plan must say whose it is
        raise BrokenScan(
            f"the scan failed on the grid {request.grid} with {type(error).__name__}: {error}",
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
