"""Find the sequence lengths at which one network overtakes another.

Between two timed lengths, a value is interpolated as a power of the length (a line in a log-log plot). There is no
extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

from zigma_bench.reports.table import Table, TableRow

SPEEDS = ("1/s", "s")  # units of the metrics that are compared
EQUAL = 1e-9  # below this difference of logarithms, two values are equal


@dataclass(frozen=True)
class Curve:
    """One metric of one network, scan, backend and batch by the number of tokens. `rising`: higher is better."""

    metric: str
    unit: str
    label: str
    backbone: str | None
    batch: int
    rising: bool
    points: Mapping[int, float]


@dataclass(frozen=True)
class Crossing:
    """`ahead` is better above about `tokens` tokens, `behind` is better below."""

    metric: str
    batch: int
    ahead: str
    behind: str
    tokens: float

    def __str__(self) -> str:
        where = f"at about {self.tokens:,.0f} tokens"
        return f"{self.metric}, batch {self.batch}: {self.ahead} overtakes {self.behind} {where}"


def find_crossings(table: Table) -> list[Crossing]:
    """All crossings of different backbones in the table of an efficiency suite; none for other suites."""
    pairs = combinations(speed_curves(table), 2)
    compared = ((a, b) for a, b in pairs if (a.metric, a.batch) == (b.metric, b.batch) and a.backbone != b.backbone)
    return [crossing for a, b in compared for crossing in _between(a, b)]


def speed_curves(table: Table) -> list[Curve]:
    """The speeds of each network over the length; none for a suite that isn't an efficiency suite."""
    return list(_curves(table))


def _curves(table: Table) -> Iterator[Curve]:
    for metric in table.metric_names:
        groups: dict[tuple[str, str, int], list[TableRow]] = {}
        for row in table.rows:
            if row.setting and metric in row.metrics:
                name = " ".join(filter(None, (row.backbone, row.scan)))
                groups.setdefault((name, row.setting["backend"], row.setting["batch"]), []).append(row)
        several = {name for name, backend, _ in groups if any(n == name and b != backend for n, b, _ in groups)}
        for (name, backend, batch), rows in groups.items():
            statistics = {row.setting["tokens"]: row.metrics[metric] for row in rows}
            points = {tokens: found.mean for tokens, found in sorted(statistics.items()) if found.mean}
            first = next(iter(statistics.values()))
            if first.unit in SPEEDS and first.better is not None:
                label = f"{name} ({backend})" if name in several else name
                yield Curve(metric, first.unit, label, rows[0].backbone, batch, first.better == "higher", points)


def _between(a: Curve, b: Curve) -> Iterator[Crossing]:
    """The crossings of two curves, between lengths at which both were timed."""
    lengths = [tokens for tokens in a.points if tokens in b.points]
    lead = {n: math.log(a.points[n] / b.points[n]) * (1 if a.rising else -1) for n in lengths}
    side, after = {}, 0.0
    for n in reversed(lengths):  # at equal values, the side is that of the next length
        after = side[n] = math.copysign(1, lead[n]) if abs(lead[n]) > EQUAL else after
    for left, right in pairwise(lengths):
        if side[left] * side[right] < 0:
            share = lead[left] / (lead[left] - lead[right])
            tokens = math.exp(math.log(left) + share * (math.log(right) - math.log(left)))
            ahead, behind = (a, b) if side[right] > 0 else (b, a)
            yield Crossing(a.metric, a.batch, ahead.label, behind.label, tokens)
