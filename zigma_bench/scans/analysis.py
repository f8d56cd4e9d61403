"""Statistics of an order on a grid: its step lengths, its locality, and the neighbour pairs that it joins over layers.

Steps and sequence distances are only defined within one segment of one path. The state carries nothing across segments,
or between the paths of a scatter.
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

Distances = dict[str, float]  # a distance as a string -> a mean; distances without any pair of tokens are absent


@dataclass(frozen=True)
class Statistics:
    """Statistics of all paths of a route. Values about steps are None if there are none, as on a grid of one token.

    A step leads from a token to the next one in its segment; moves to or from a pad don't count. `neighbour4_share`:
    the share of steps of Manhattan length 1. `neighbour8_share`: the share of steps that change no coordinate by more
    than 1 (including diagonals). The frame number of a clip is a coordinate like row and column. Grid distances are
    Manhattan distances; sequence distances are numbers of steps, including pads.
    `sequence_distance`: the mean number of steps between two tokens that are 1, 2, 4, 8 apart on the grid.
    `grid_distance`: the mean grid distance between two tokens that are 1, 2, 4, 8, 16 steps apart.
    `pads`: the number of pads in all paths.
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
        """The fields, ready for JSON."""
        return asdict(self)


def route_statistics(route: Route, grid: Grid) -> Statistics | None:
    """The statistics of a checked route; None for a learned order, which differs between samples."""
    if route.learned is not None:
        return None
    moves = step_distances(route, grid)
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


def step_distances(route: Route, grid: Grid, apart: int = 1) -> Ints:
    """The absolute differences in (t, r, c) between tokens that are `apart` steps from each other: [pairs, 3]."""
    before, after = _token_pairs(route, apart)
    far: Ints = np.abs(_coordinates_of(after, grid) - _coordinates_of(before, grid))
    return far


def grid_distance(route: Route, grid: Grid, distances: Sequence[int] = SEQUENCE_DISTANCES) -> Distances:
    """The mean Manhattan distance on the grid between two tokens n steps apart, for each n."""
    found = {n: step_distances(route, grid, n).sum(-1) for n in distances}
    return {str(n): float(far.mean()) for n, far in found.items() if len(far)}


def sequence_distance(route: Route, grid: Grid, distances: Sequence[int] = GRID_DISTANCES) -> Distances:
    """The mean number of steps between two tokens at Manhattan distance d on the grid, for each d, over all pairs."""
    shape = (route.K, grid.frames, grid.height, grid.width)
    when = route.inverse.reshape(shape)
    segment = _segment_of_tokens(route).reshape(shape)
    found: Distances = {}
    for distance in distances:
        total = pairs = 0
        for offset in _grid_offsets(distance, grid):
            here, there = _offset_slices(offset)
            joined = (segment[here] == segment[there]) & (when[here] >= 0)
            total += int(np.abs(when[here] - when[there])[joined].sum())
            pairs += int(joined.sum())
        if pairs:
            found[str(distance)] = total / pairs
    return found


def neighbour_coverage(routes: Sequence[Route], grid: Grid, *, directed: bool = False) -> tuple[float | None, ...]:
    """The share of neighbour pairs that are consecutive in some path of the first k layers, for k = 1, 2, ...

    Neighbours differ by 1 in one coordinate. `directed` counts the two directions of a pair separately. The share is
    None on a grid of one token, and from the first learned layer on.
    """
    pairs = _neighbour_pairs(grid) * (2 if directed else 1)
    seen: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    shares: list[float | None] = []
    done: set[str] = set()
    for route in routes:
        known = pairs > 0 and route.learned is None and None not in shares
        if known and route.digest not in done:
            done.add(route.digest)
            seen = np.union1d(seen, _joined_pairs(route, grid, directed))
        shares.append(len(seen) / pairs if known else None)
    return tuple(shares)


def show_json(routes: Sequence[Route], grid: Grid) -> dict[str, Any]:
    """The output of `scans show --json`: the grid, each layer with its statistics, and the coverage by depth."""
    layers = [_layer_json(route, grid) for route in routes]
    return {"grid": grid_sides(grid), "layers": layers, "coverage": list(neighbour_coverage(routes, grid))}


def grid_sides(grid: Grid) -> list[int]:
    """[H, W], or [T, H, W] for a clip."""
    return [grid.frames, grid.height, grid.width] if grid.video else [grid.height, grid.width]


def _layer_json(route: Route, grid: Grid) -> dict[str, Any]:
    found = route_statistics(route, grid)
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


def _token_pairs(route: Route, apart: int) -> tuple[Ints, Ints]:
    """The pairs of tokens (earlier [pairs], later [pairs]) that are `apart` steps apart in a segment of any path."""
    before, after = route.paths[:, :-apart], route.paths[:, apart:]
    counted = (before >= 0) & (after >= 0)
    if route.segment_starts is not None:
        counted &= route.segment_starts[:, :-apart] == route.segment_starts[:, apart:]
    return before[counted], after[counted]


def _coordinates_of(tokens: Ints, grid: Grid) -> Ints:
    """The coordinates (t, r, c) of tokens [n]: [n, 3]."""
    return np.stack(np.unravel_index(tokens, (grid.frames, grid.height, grid.width)), axis=-1).astype(np.int64)


def _segment_of_tokens(route: Route) -> Ints:
    """int64 [K, L]: the first step of each token's segment; -1 if the path doesn't visit the token."""
    if route.segment_starts is None:
        return np.where(route.inverse >= 0, 0, -1)
    return np.where(route.inverse >= 0, np.take_along_axis(route.segment_starts, np.maximum(route.inverse, 0), 1), -1)


def _grid_offsets(distance: int, grid: Grid) -> Iterator[tuple[int, int, int]]:
    """All offsets (t, r, c) of a Manhattan length that fit on the grid, one of each opposite pair."""
    for t, r in itertools.product(range(min(distance, grid.frames - 1) + 1), range(1 - grid.height, grid.height)):
        rest = distance - t - abs(r)
        for c in {rest, -rest} if 0 <= rest < grid.width else ():
            if (t, r, c) > (0, 0, 0):
                yield t, r, c


def _offset_slices(offset: tuple[int, int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of [K, T, H, W]: the tokens that have another token at the offset, and those other tokens."""
    here = tuple(slice(max(-o, 0), -o if o > 0 else None) for o in offset)
    there = tuple(slice(max(o, 0), o if o < 0 else None) for o in offset)
    return (slice(None), *here), (slice(None), *there)


def _neighbour_pairs(grid: Grid) -> int:
    t, h, w = grid.frames, grid.height, grid.width
    return (t - 1) * h * w + t * (h - 1) * w + t * h * (w - 1)


def _joined_pairs(route: Route, grid: Grid, directed: bool) -> npt.NDArray[np.int64]:
    """The neighbour pairs that are consecutive in a path, each encoded as one number."""
    near = step_distances(route, grid).sum(-1) == 1
    before, after = (tokens[near] for tokens in _token_pairs(route, 1))
    if not directed:
        before, after = np.minimum(before, after), np.maximum(before, after)
    return np.unique(before * grid.tokens + after)
