"""What an order is like on a grid: how far it steps, how local it is, and which neighbours it joins over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zigma_bench.grid import Grid
from zigma_bench.scans.route import Ints, Route


@dataclass(frozen=True)
class Statistics:
    """A route on a grid, over all its paths. Steps are None on a grid of one token, which has none.

    `neighbour4_share`: share of steps of Manhattan length 1; `neighbour8_share`: of steps that change no coordinate by
    more than 1 (diagonals too). A clip's frame number is a coordinate like row and column. Distances are Manhattan.
    """

    scanned_ratio: float
    neighbour4_share: float | None
    neighbour8_share: float | None
    mean_step: float | None
    largest_step: int | None
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return asdict(self)


def statistics(route: Route, grid: Grid) -> Statistics:
    """The statistics of a checked route."""
    moves = steps(route.paths, grid)
    manhattan, largest = moves.sum(-1), moves.max(-1)
    if manhattan.size == 0:
        return Statistics(route.scanned_ratio, None, None, None, None, route.digest)
    return Statistics(
        scanned_ratio=route.scanned_ratio,
        neighbour4_share=float((manhattan == 1).mean()),
        neighbour8_share=float((largest == 1).mean()),
        mean_step=float(manhattan.mean()),
        largest_step=int(manhattan.max()),
        digest=route.digest,
    )


def steps(paths: Ints, grid: Grid) -> Ints:
    """How far each step goes along (t, r, c), as absolute values: [K, L] -> [K, L-1, 3]."""
    places = np.stack(np.unravel_index(paths, (grid.frames, grid.height, grid.width)), axis=-1)
    return np.abs(np.diff(places, axis=1)).astype(np.int64)


def coverage(routes: Sequence[Route], grid: Grid, *, directed: bool = False) -> tuple[float | None, ...]:
    """Share of neighbour pairs that follow each other in a path of one of the first k layers, for k = 1, 2, ...

    Neighbours differ by 1 in one coordinate. `directed` counts a pair once for each of its two directions. None on a
    grid of one token, which has no pair.
    """
    pairs = _neighbour_pairs(grid) * (2 if directed else 1)
    seen: set[int] = set()
    shares: list[float | None] = []
    done: set[str] = set()
    for route in routes:
        if route.digest not in done:
            done.add(route.digest)
            seen.update(_joined(route.paths, grid, directed).tolist())
        shares.append(len(seen) / pairs if pairs else None)
    return tuple(shares)


def _neighbour_pairs(grid: Grid) -> int:
    t, h, w = grid.frames, grid.height, grid.width
    return (t - 1) * h * w + t * (h - 1) * w + t * h * (w - 1)


def _joined(paths: Ints, grid: Grid, directed: bool) -> npt.NDArray[np.int64]:
    """The neighbour pairs that are consecutive in a path, each as one number."""
    near = steps(paths, grid).sum(-1) == 1
    before, after = paths[:, :-1][near], paths[:, 1:][near]
    if not directed:
        before, after = np.minimum(before, after), np.maximum(before, after)
    return np.unique(before * grid.tokens + after)


def show_json(routes: Sequence[Route], grid: Grid) -> dict[str, Any]:
    """All that `scans show --json` prints: the grid, and each layer's paths, merge, share and statistics."""
    sides = [grid.frames, grid.height, grid.width] if grid.video else [grid.height, grid.width]
    layers = [
        {
            "paths": route.paths.tolist(),
            "merge": route.merge,
            "share": route.share,
            "stats": statistics(route, grid).to_json(),
        }
        for route in routes
    ]
    return {"grid": sides, "layers": layers}
