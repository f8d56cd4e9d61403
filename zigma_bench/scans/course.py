"""A path in words: where it begins, which way it goes on, and whether it follows rows or columns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zigma_bench.grid import Grid
from zigma_bench.scans.route import PAD, Ints

FIRST = 16  # tokens told of a path
MOSTLY = 2  # times as many steps one way as the other


@dataclass(frozen=True)
class Course:
    """`begins`: the corner of the first token, or its (row, column). `along`: `rows`, `columns`, `both`, or `none`
    of them: which way the steps to a neighbour mostly lead. `first`: the first tokens, -1 for a pad. `steps`: of all.
    """

    begins: str
    along: str
    first: tuple[int, ...]
    steps: int

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return {**asdict(self), "first": list(self.first)}


def course(path: Ints, grid: Grid) -> Course:
    """The words for a checked path [S] on the grid of a picture."""
    tokens = path[path != PAD]
    rows, columns = np.divmod(tokens, grid.width)
    first = tuple(int(token) for token in path[:FIRST])
    return Course(_place(int(rows[0]), int(columns[0]), grid), _along(rows, columns), first, len(path))


def _place(row: int, column: int, grid: Grid) -> str:
    sides = ({0: "top", grid.height - 1: "bottom"}.get(row), {0: "left", grid.width - 1: "right"}.get(column))
    return f"{sides[0]} {sides[1]}" if all(sides) else f"({row}, {column})"


def _along(rows: Ints, columns: Ints) -> str:
    """Steps to a neighbour in the row against steps to one in the column."""
    down, right = np.abs(np.diff(rows)), np.abs(np.diff(columns))
    in_rows, in_columns = int(((down == 0) & (right == 1)).sum()), int(((down == 1) & (right == 0)).sum())
    if 2 * (in_rows + in_columns) < len(down):
        return "none"
    if in_rows > MOSTLY * in_columns:
        return "rows"
    return "columns" if in_columns > MOSTLY * in_rows else "both"
