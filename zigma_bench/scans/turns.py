"""Scans whose layers follow several paths in turn: the number of paths, and their assignment to the layers.

L tokens, K paths in turn.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from zigma_bench.errors import NotReady
from zigma_bench.scans.grid import Grid

Assignment = Literal["cyclic", "reversed"]
Result = TypeVar("Result")  # a path or a route
CountPaths = Callable[[Grid, Mapping[str, Any]], int | None]
COUNT = "count_paths_in_turn"  # the attribute of a scan with paths in turn


def paths_in_turn(count: CountPaths) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """A decorator for a scan function whose layer i follows path i mod K; it adds the option `assignment`.

    `assignment: cyclic` leaves the layers as they are. With `reversed`, layer i follows path K - 1 - (i mod K).
    `count(grid, options)` is K, or None if these options don't let the layers follow paths in turn. A plan compares K
    with the number of layers.
    """

    def decorate(scan: Callable[..., Result]) -> Callable[..., Result]:
        name = scan.__name__.replace("_", "-")

        @functools.wraps(scan)
        def assigned(grid: Grid, layer: int, *others: Any, assignment: Assignment = "cyclic", **options: Any) -> Result:
            if assignment == "reversed":
                layer = _reversed_layer(name, layer, count_paths(grid, options))
            return scan(grid, layer, *others, **options)

        parameters = inspect.signature(scan).parameters.values()
        defaults = {parameter.name: parameter.default for parameter in parameters}

        def count_paths(grid: Grid, options: Mapping[str, Any]) -> int | None:
            return count(grid, {**defaults, **options})

        keyword = inspect.Parameter.KEYWORD_ONLY
        option = inspect.Parameter("assignment", keyword, default="cyclic", annotation=Assignment)
        assigned.__signature__ = inspect.Signature([*parameters, option])  # type: ignore[attr-defined]
        assigned.__annotations__ = {**scan.__annotations__, "assignment": Assignment}
        setattr(assigned, COUNT, count_paths)
        return assigned

    return decorate


def count_paths_in_turn(scan: Callable[..., Any], grid: Grid, options: Mapping[str, Any]) -> int | None:
    """K, the number of paths that the layers of a scan follow in turn; None if it declares none."""
    count: CountPaths | None = getattr(scan, COUNT, None)
    return None if count is None else count(grid, options)


def _reversed_layer(scan: str, layer: int, paths: int | None) -> int:
    """The layer whose path comes at this place in the reversed cycle."""
    if paths is None or paths == 1:
        raise NotReady(
            f"the paths of {scan} can't be assigned in reverse, because its layers don't follow several paths in turn",
            expected="assignment: cyclic",
            got="assignment: reversed",
            do="omit assignment, or choose several paths, by layers",
        )
    return paths - 1 - layer % paths
