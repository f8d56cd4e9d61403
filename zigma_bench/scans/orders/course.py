"""Describe a scan path in words: where it begins, its first tokens, and whether it follows rows, columns or time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import PAD, Ints

FIRST = 16  # tokens listed from the start of a path
MOSTLY = 2  # the main axis has more than this many times the steps of the others


@dataclass(frozen=True)
class Course:
    """A scan path in words.

    `begins`: the corner of the first token, or its (row, column); for a clip also its frame. `along`: the axis of most
    steps between neighbours: `rows`, `columns`, `time`, `both` (`several` for a clip), or `none`. `first`: the first
    tokens, -1 for a pad. `steps`: the number of steps.
    """

    begins: str
    along: str
    first: tuple[int, ...]
    steps: int

    def to_json(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return {**asdict(self), "first": list(self.first)}


def course(path: Ints, grid: Grid) -> Course:
    """Describe a checked path [S] on a grid."""
    tokens = path[path != PAD]
    rows, columns = np.divmod(tokens, grid.width)
    times, rows = np.divmod(rows, grid.height)
    begins = _place(int(rows[0]), int(columns[0]), grid)
    if grid.video:
        begins = f"{begins}, frame {times[0]}"
    first = tuple(int(token) for token in path[:FIRST])
    return Course(begins, _along({"rows": columns, "columns": rows, "time": times}, grid), first, len(path))


def _place(row: int, column: int, grid: Grid) -> str:
    sides = ({0: "top", grid.height - 1: "bottom"}.get(row), {0: "left", grid.width - 1: "right"}.get(column))
    return f"{sides[0]} {sides[1]}" if all(sides) else f"({row}, {column})"


def _along(axes: dict[str, Ints], grid: Grid) -> str:
    """The axis along which most steps between neighbours lead. Such a step changes one coordinate by 1."""
    steps = {name: np.abs(np.diff(places)) for name, places in axes.items()}
    moved = sum(steps.values())
    counts = {name: int(((changed == 1) & (moved == 1)).sum()) for name, changed in steps.items()}
    total, most = sum(counts.values()), max(counts, key=lambda name: counts[name])
    if 2 * total < len(steps[most]):
        return "none"
    if counts[most] > MOSTLY * (total - counts[most]):
        return most
    return "several" if grid.video else "both"
