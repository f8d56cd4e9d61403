"""The geometry of a drawn path: the points of its tokens, the links between them, the marks of pads and segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.pictures.style import FRAMES, Floats
from zigma_bench.scans.route import Ints, Route


@dataclass(frozen=True)
class Track:
    """A path in the plane, in cells, x to the right and y down; the frames of a clip are side by side.

    `points` [n, 2]: the visited tokens. `shade` [n]: 0 to `shades` - 1, by time. `link` [n - 1]: "step", "jump", or ""
    across a segment boundary or a pad. `pads` [m, 2]: marks of pads. `ends` [e, 2]: both ends of each segment.
    """

    points: Floats
    shade: Ints
    shades: int
    link: npt.NDArray[np.str_]
    pads: Floats
    ends: Floats


def make_track(route: Route, number: int, grid: Grid) -> Track:
    """The geometry of path `number` of a route."""
    path = route.paths[number]
    at = np.flatnonzero(path >= 0)
    segment_starts = np.zeros_like(at) if route.segment_starts is None else route.segment_starts[number][at]
    points = _points(path[at], grid)
    moves, reset = np.diff(points, axis=0), np.diff(segment_starts) != 0
    link = np.where(np.abs(moves).max(-1, initial=0) <= 1, "step", "jump")
    link[reset | (np.diff(at) > 1)] = ""
    shades = min(route.steps, FRAMES)
    pads = _pad_marks(points, moves, at, route.steps)
    return Track(points, at * shades // route.steps, shades, link, pads, _segment_ends(points, reset))


def _points(tokens: Ints, grid: Grid) -> Floats:
    t, r, c = np.unravel_index(tokens, (grid.frames, grid.height, grid.width))
    return np.stack([c + t * (grid.width + 1), r], axis=-1).astype(np.float64)


def _segment_ends(points: Floats, reset: npt.NDArray[np.bool_]) -> Floats:
    """Both ends of each segment; nothing if there is only one segment."""
    if not reset.any():
        return points[:0]
    ends: Floats = points[np.append(True, reset) | np.append(reset, True)]
    return ends


def _pad_marks(points: Floats, moves: Floats, at: Ints, steps: int) -> Floats:
    """A mark for each run of pads: half a cell after the previous token, or before the first token."""
    if not len(at):
        return points
    half = _half_cells(moves)
    behind = np.append(np.diff(at) > 1, at[-1] < steps - 1)
    marks = (points + half)[behind]
    return np.concatenate([points[:1] - half[:1], marks]) if at[0] > 0 else marks


def _half_cells(moves: Floats) -> Floats:
    """An offset of half a cell [n, 2] from each token: towards a neighbouring next token, else straight on."""
    if not len(moves):
        return np.array([[0.5, 0.0]])
    ahead = np.concatenate([moves, moves[-1:]])
    before = np.concatenate([moves[:1], moves])
    far = (np.abs(ahead).max(-1) > 1) & (np.abs(before).max(-1) <= 1)
    ahead[far] = before[far]
    half: Floats = ahead / np.linalg.norm(ahead, axis=1, keepdims=True) / 2
    return half


def track_runs(found: Track, kind: str) -> list[tuple[Floats, int]]:
    """The lines of one kind of link: connected points [n, 2] of the same shade, each with that shade."""
    is_kind, shade = found.link == kind, found.shade[1:]
    joined = is_kind[1:] & is_kind[:-1] & (shade[1:] == shade[:-1])
    starts = np.flatnonzero(is_kind & ~np.append(False, joined)[: len(is_kind)])
    stops = np.flatnonzero(is_kind & ~np.append(joined, False)[: len(is_kind)])
    return [(found.points[i : j + 2], int(shade[i])) for i, j in zip(starts, stops, strict=True)]
