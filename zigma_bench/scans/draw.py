"""A path drawn for a terminal: in each cell an arrow to the next one, jumps marked, early to late from blue to red.

o→ → → ↓        o first token    → step to a neighbour    * the next step jumps
 ↓ ← ← ←        > a jump lands   + the same place one frame on or back
 → → → #        # last token
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zigma_bench.grid import Grid
from zigma_bench.scans.route import Ints, Route

if TYPE_CHECKING:
    from rich.text import Text

ARROWS = {
    (0, 0, 1): "→", (0, 0, -1): "←", (0, 1, 0): "↓", (0, -1, 0): "↑",
    (0, 1, 1): "↘", (0, 1, -1): "↙", (0, -1, 1): "↗", (0, -1, -1): "↖",
    (1, 0, 0): "+", (-1, 0, 0): "+",
}  # fmt: skip
FIRST, LAST, JUMP, LANDING = "o", "#", "*", ">"
LEGEND = f"{FIRST} first  {LAST} last  {JUMP} jumps from here  {LANDING} a jump lands"
GAP = "   "

Cell = tuple[str, float]  # two characters, and when it is visited: 0 the first step, 1 the last


def draw_path(path: Ints, grid: Grid) -> list[str]:
    """The lines of one path [L]: 2 W characters wide; the frames of a clip stand below each other, a blank between."""
    return ["".join(text for text, _ in row) for row in _cells(path, grid)]


def draw_route(route: Route, grid: Grid) -> str:
    """All paths of a route side by side, under their numbers."""
    blocks = [_titled(number, draw_path(path, grid), grid) for number, path in enumerate(route.paths)]
    return "\n".join(GAP.join(line).rstrip() for line in zip(*blocks, strict=True))


def rich_path(path: Ints, grid: Grid) -> list[Text]:
    """As `draw_path`, coloured from blue (early) to red (late)."""
    from rich.text import Text

    return [Text.assemble(*((text, _colour(when)) for text, when in row)) for row in _cells(path, grid)]


def rich_route(route: Route, grid: Grid) -> list[Text]:
    """As `draw_route`, coloured."""
    from rich.text import Text

    titles = [_title(number, grid) for number in range(route.K)]
    blocks = [rich_path(path, grid) for path in route.paths]
    rows = [Text(GAP).join(line) for line in zip(*blocks, strict=True)]
    return [Text(GAP.join(titles).rstrip(), style="bold"), *rows]


def _titled(number: int, lines: list[str], grid: Grid) -> list[str]:
    return [_title(number, grid), *(line.ljust(_width(grid)) for line in lines)]


def _title(number: int, grid: Grid) -> str:
    return str(number).ljust(_width(grid))


def _width(grid: Grid) -> int:
    return 2 * grid.width


def _cells(path: Ints, grid: Grid) -> list[list[Cell]]:
    """The cells of all lines, top to bottom; the line between two frames is blank."""
    places = np.stack(np.unravel_index(path, (grid.frames, grid.height, grid.width)), axis=-1)
    moves = np.diff(places, axis=0).tolist()
    leaving = [ARROWS.get((t, r, c), JUMP) for t, r, c in moves] + [LAST]
    arriving = [FIRST] + [LANDING if sign == JUMP else " " for sign in leaving[:-1]]
    late = max(len(path) - 1, 1)
    cell = {int(token): (arriving[i] + leaving[i], i / late) for i, token in enumerate(path)}
    rows: list[list[Cell]] = []
    for row in range(grid.frames * grid.height):
        if row and row % grid.height == 0:
            rows.append([(" " * _width(grid), 0.0)])
        rows.append([cell[row * grid.width + column] for column in range(grid.width)])
    return rows


def _colour(when: float) -> str:
    """Blue through violet to red."""
    return f"#{int(60 + 195 * when):02x}5a{int(255 - 195 * when):02x}"
