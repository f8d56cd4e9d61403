"""What an order is like on a grid: how far it steps, how local it is, and which neighbours it joins over the layers.

Two tokens are a step apart, or any distance in the sequence, only inside one segment of one path: where the state
starts anew nothing is carried from one to the other, whether the new stretch is a segment or another path of a scatter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Ints, Route

GRID_DISTANCES = (1, 2, 4, 8)
SEQUENCE_DISTANCES = (1, 2, 4, 8, 16)

Distances = dict[str, float]  # a distance in digits -> a mean; without those that no pair of tokens has


@dataclass(frozen=True)
class Statistics:
    """A route on a grid, over all its paths. Steps are None where there is none, as on a grid of one token.

    A step leads from a token to the next one in its segment; into or out of a pad is no step. `neighbour4_share`: share
    of steps of Manhattan length 1; `neighbour8_share`: of steps that change no coordinate by more than 1 (diagonals
    too). A clip's frame number is a coordinate like row and column. Distances on the grid are Manhattan, those in the
    sequence steps, pads included.
    `sequence_distance`: mean steps between two tokens that are 1, 2, 4, 8 apart on the grid.
    `grid_distance`: mean distance on the grid of two tokens that are 1, 2, 4, 8, 16 steps apart.
    `pads`: of all paths together.
    """

    scanned_ratio: float
    pads: int
    neighbour4_share: float | None
    neighbour8_share: float | None
    mean_step: float | None
    largest_step: int | None
    sequence_distance: Distances
    grid_distance: Distances
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return asdict(self)


def statistics(route: Route, grid: Grid) -> Statistics | None:
    """The statistics of a checked route; None of a learned one, whose order is each sample's own."""
    if route.learned is not None:
        return None
    moves = steps(route, grid)
    manhattan, largest = moves.sum(-1), moves.max(-1)
    some = len(moves) > 0
    return Statistics(
        scanned_ratio=route.scanned_ratio,
        pads=route.pad_count,
        neighbour4_share=float((manhattan == 1).mean()) if some else None,
        neighbour8_share=float((largest == 1).mean()) if some else None,
        mean_step=float(manhattan.mean()) if some else None,
        largest_step=int(manhattan.max()) if some else None,
        sequence_distance=sequence_distance(route, grid),
        grid_distance=grid_distance(route, grid),
        digest=route.digest,
    )


def steps(route: Route, grid: Grid, apart: int = 1) -> Ints:
    """How far tokens that are `apart` steps from each other lie along (t, r, c), as absolute values: [pairs, 3]."""
    before, after = _pairs(route, apart)
    far: Ints = np.abs(_places(after, grid) - _places(before, grid))
    return far


def grid_distance(route: Route, grid: Grid, distances: Sequence[int] = SEQUENCE_DISTANCES) -> Distances:
    """Mean Manhattan distance on the grid of two tokens n steps apart, for each n."""
    found = {n: steps(route, grid, n).sum(-1) for n in distances}
    return {str(n): float(far.mean()) for n, far in found.items() if len(far)}


def sequence_distance(route: Route, grid: Grid, distances: Sequence[int] = GRID_DISTANCES) -> Distances:
    """Mean steps between two tokens at Manhattan distance d on the grid, for each d; all pairs, none sampled."""
    shape = (route.K, grid.frames, grid.height, grid.width)
    when = route.inverse.reshape(shape)
    stretch = _stretch_of_tokens(route).reshape(shape)
    found: Distances = {}
    for distance in distances:
        total = pairs = 0
        for offset in _offsets(distance, grid):
            here, there = _shifted(offset)
            joined = (stretch[here] == stretch[there]) & (when[here] >= 0)
            total += int(np.abs(when[here] - when[there])[joined].sum())
            pairs += int(joined.sum())
        if pairs:
            found[str(distance)] = total / pairs
    return found


def coverage(routes: Sequence[Route], grid: Grid, *, directed: bool = False) -> tuple[float | None, ...]:
    """Share of neighbour pairs that follow each other in a path of one of the first k layers, for k = 1, 2, ...

    Neighbours differ by 1 in one coordinate. `directed` counts a pair once for each of its two directions. None on a
    grid of one token, which has no pair, and from a learned layer on.
    """
    pairs = _neighbour_pairs(grid) * (2 if directed else 1)
    seen: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    shares: list[float | None] = []
    done: set[str] = set()
    for route in routes:
        known = pairs > 0 and route.learned is None and None not in shares
        if known and route.digest not in done:
            done.add(route.digest)
            seen = np.union1d(seen, _joined(route, grid, directed))
        shares.append(len(seen) / pairs if known else None)
    return tuple(shares)


def show_json(routes: Sequence[Route], grid: Grid) -> dict[str, Any]:
    """All that `scans show --json` prints: the grid, each layer with its statistics, and the coverage by depth."""
    layers = [_layer_json(route, grid) for route in routes]
    return {"grid": sides(grid), "layers": layers, "coverage": list(coverage(routes, grid))}


def sides(grid: Grid) -> list[int]:
    """[H, W], or [T, H, W] of a clip."""
    return [grid.frames, grid.height, grid.width] if grid.video else [grid.height, grid.width]


def _layer_json(route: Route, grid: Grid) -> dict[str, Any]:
    found = statistics(route, grid)
    return {
        "paths": route.paths.tolist(),
        "segments": None if route.segments is None else [lengths.tolist() for lengths in route.segments],
        "merge": route.merge,
        "share": route.share,
        "pads": None if route.pads is None else route.pads.tolist(),
        "step_feature": None if route.step_feature is None else route.step_feature.tolist(),
        "stages": None if route.stages is None else list(route.stages),
        "learned": None if route.learned is None else route.learned.key,
        "stats": None if found is None else found.to_json(),
    }


def _pairs(route: Route, apart: int) -> tuple[Ints, Ints]:
    """The tokens (earlier [pairs], later [pairs]) that are `apart` steps from each other in a segment of any path."""
    before, after = route.paths[:, :-apart], route.paths[:, apart:]
    counted = (before >= 0) & (after >= 0)
    if route.segment_starts is not None:
        counted &= route.segment_starts[:, :-apart] == route.segment_starts[:, apart:]
    return before[counted], after[counted]


def _places(tokens: Ints, grid: Grid) -> Ints:
    """The coordinates (t, r, c) of tokens [n]: [n, 3]."""
    return np.stack(np.unravel_index(tokens, (grid.frames, grid.height, grid.width)), axis=-1).astype(np.int64)


def _stretch_of_tokens(route: Route) -> Ints:
    """int64 [K, L]: the step at which the segment of a token began; of no meaning where a path does not visit it."""
    if route.segment_starts is None:
        return np.where(route.inverse >= 0, 0, -1)
    return np.where(route.inverse >= 0, np.take_along_axis(route.segment_starts, np.maximum(route.inverse, 0), 1), -1)


def _offsets(distance: int, grid: Grid) -> Iterator[tuple[int, int, int]]:
    """Every (t, r, c) of a Manhattan length that fits on the grid, one of each pair of opposites."""
    for t, r in itertools.product(range(min(distance, grid.frames - 1) + 1), range(1 - grid.height, grid.height)):
        rest = distance - t - abs(r)
        for c in {rest, -rest} if 0 <= rest < grid.width else ():
            if (t, r, c) > (0, 0, 0):
                yield t, r, c


def _shifted(offset: tuple[int, int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where in [K, T, H, W] the tokens stand that have another one at the offset, and where that one stands."""
    here = tuple(slice(max(-o, 0), -o if o > 0 else None) for o in offset)
    there = tuple(slice(max(o, 0), o if o < 0 else None) for o in offset)
    return (slice(None), *here), (slice(None), *there)


def _neighbour_pairs(grid: Grid) -> int:
    t, h, w = grid.frames, grid.height, grid.width
    return (t - 1) * h * w + t * (h - 1) * w + t * h * (w - 1)


def _joined(route: Route, grid: Grid, directed: bool) -> npt.NDArray[np.int64]:
    """The neighbour pairs that are a step of a path, each as one number."""
    near = steps(route, grid).sum(-1) == 1
    before, after = (tokens[near] for tokens in _pairs(route, 1))
    if not directed:
        before, after = np.minimum(before, after), np.maximum(before, after)
    return np.unique(before * grid.tokens + after)
