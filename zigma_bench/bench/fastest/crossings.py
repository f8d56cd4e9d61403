"""The length from which a linear-time network is faster than attention, interpolated between two timed lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from zigma_bench.scans.grid import Grid

if TYPE_CHECKING:
    from zigma_bench.bench.fastest.cases import Case, Timed

SHORTEST, LONGEST = 64, 65_536  # tokens that are tried
CLOSE = 2.5  # ratio of two lengths between which no further length is timed


@dataclass(frozen=True)
class Crossing:
    """The number of tokens from which `linear` is faster than `attention`; None without a crossing.

    `launch`: how both are launched, which may differ between them: `eager`, or `graph and eager`.
    `low` and `high` are the range that the 95% intervals of the four timings allow. `seconds`: the medians of attention
    and of the linear-time network at each timed number of tokens. `stopped_by`: why the search ended early.
    """

    linear: str
    attention: str
    launch: str
    tokens: float | None
    low: float | None
    high: float | None
    seconds: Mapping[int, tuple[float, float]]
    stopped_by: str | None = None

    def __str__(self) -> str:
        lengths, names = sorted(self.seconds), f"{self.linear} ({self.launch})"
        more = f"; the search ended at {self.stopped_by}" if self.stopped_by else ""
        if not lengths:
            return f"{names} against {self.attention}: no length was timed{more}"
        if self.tokens is not None:
            around = f"{self.low:,.0f} to {self.high:,.0f}" if self.low is not None else "unknown interval"
            return f"{names} is faster than {self.attention} from about {self.tokens:,.0f} tokens ({around})"
        attention, linear = self.seconds[lengths[0]]
        word = "faster" if linear < attention else "slower"
        span = f"{lengths[0]:,} to {lengths[-1]:,}" if len(lengths) > 1 else f"{lengths[0]:,}"
        return f"{names} is {word} than {self.attention} at all timed lengths, {span} tokens{more}"

    def to_json(self) -> dict[str, Any]:
        seconds = {str(tokens): list(pair) for tokens, pair in self.seconds.items()}
        return {**asdict(self), "seconds": seconds, "words": str(self)}


def find_crossing(
    linear: Case, attention: Case, points: Mapping[Grid, tuple[Timed, Timed]], stopped_by: str | None
) -> Crossing:
    """The crossing between neighbouring lengths; `points`: the timings of attention and of the linear-time network."""
    ordered = sorted(points.items(), key=lambda item: item[0].tokens)
    launches = dict.fromkeys((linear.launch.name, attention.launch.name))
    names = (linear.network.label, attention.network.label, " and ".join(launches))
    seconds = {grid.tokens: (a.median, b.median) for grid, (a, b) in ordered}
    for (left, first), (right, second) in pairwise(ordered):
        lengths = (left.tokens, right.tokens)
        ratios = [math.log(a.median / b.median) for a, b in (first, second)]  # above zero: the linear one is faster
        if ratios[0] <= 0 < ratios[1]:
            most = [math.log(a.interval[1] / b.interval[0]) for a, b in (first, second)]
            least = [math.log(a.interval[0] / b.interval[1]) for a, b in (first, second)]
            found = interpolate(lengths, ratios)
            low, high = _bounded(interpolate(lengths, most), left), _bounded(interpolate(lengths, least), right)
            return Crossing(*names, found, low, high, seconds, stopped_by)
    return Crossing(*names, None, None, None, seconds, stopped_by)


def interpolate(lengths: tuple[int, int], logs: list[float]) -> float | None:
    """The length at which the logarithm of a ratio is zero, where times are powers of the length; None outside."""
    if not logs[0] <= 0 <= logs[1]:
        return None
    share = 0.0 if logs[1] == logs[0] else -logs[0] / (logs[1] - logs[0])
    return float(lengths[0] * (lengths[1] / lengths[0]) ** share)


def _bounded(found: float | None, grid: Grid) -> float:
    """A bound of a crossing; the timed length itself if the bound lies beyond it."""
    return float(grid.tokens) if found is None else found


def longer(grid: Grid) -> Grid | None:
    """The grid with twice the sides; None above LONGEST tokens."""
    found = Grid(2 * grid.height, 2 * grid.width, grid.frames)
    return found if found.tokens <= LONGEST else None


def shorter(grid: Grid) -> Grid | None:
    """The grid with half the sides, rounded up; None below SHORTEST tokens."""
    found = Grid(-(-grid.height // 2), -(-grid.width // 2), grid.frames)
    return found if SHORTEST <= found.tokens < grid.tokens else None


def between(short: Grid, long: Grid) -> Grid | None:
    """A grid between two others; None if they are close."""
    if long.tokens < CLOSE * short.tokens:
        return None
    return Grid(long.height, short.width, short.frames)
