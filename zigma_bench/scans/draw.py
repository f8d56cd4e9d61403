"""A path drawn for a terminal: in each cell an arrow to the next one, jumps marked, early to late from blue to red.

o→ → → ↓        o first token    → step to a neighbour    * the next step jumps        . not on this path
 ↓ ← ← ←        > a jump lands   ] the state ends here    [ it starts anew             ~ a pad between
 → → → #        # last token     + the same place one frame on or back
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Ints, Route

if TYPE_CHECKING:
    from rich.text import Text

ARROWS = {
    (0, 0, 1): "→", (0, 0, -1): "←", (0, 1, 0): "↓", (0, -1, 0): "↑",
    (0, 1, 1): "↘", (0, 1, -1): "↙", (0, -1, 1): "↗", (0, -1, -1): "↖",
    (1, 0, 0): "+", (-1, 0, 0): "+",
}  # fmt: skip
FIRST, LAST, JUMP, LANDING, ENDS, STARTS, PADDED, UNVISITED = "o", "#", "*", ">", "]", "[", "~", "."
LEGEND = (
    f"{FIRST} first  {LAST} last  {JUMP} jumps from here  {LANDING} a jump lands  "
    f"{STARTS} {ENDS} the state starts anew, ends  {PADDED} a pad between  {UNVISITED} not on this path"
)
ARRIVING = {JUMP: LANDING, ENDS: STARTS, PADDED: PADDED}
LEARNED = "the order is learned: each sample has its own"
GAP = "   "
NEVER = "#808080"

Cell = tuple[str, float | None]  # two characters, and when it is visited: 0 the first step, 1 the last, None never


def draw_path(path: Ints, grid: Grid, segment_starts: Ints | None = None) -> list[str]:
    """The lines of one path [S]: 2 W characters wide; the frames of a clip stand below each other, a blank between.

    `segment_starts` [S]: the step at which each step's segment began, if there are several: a row of
    `Route.segment_starts`.
    """
    return ["".join(text for text, _ in row) for row in _cells(path, grid, segment_starts)]


def draw_route(route: Route, grid: Grid) -> str:
    """All paths of a route side by side, under their numbers; of a learned one, that it is."""
    return "\n".join(line.plain.rstrip() for line in rich_route(route, grid))


def rich_path(path: Ints, grid: Grid, segment_starts: Ints | None = None) -> list[Text]:
    """As `draw_path`, coloured from blue (early) to red (late)."""
    from rich.text import Text

    cells = _cells(path, grid, segment_starts)
    return [Text.assemble(*((text, _colour(when)) for text, when in row)) for row in cells]


def rich_route(route: Route, grid: Grid, *, width: int | None = None) -> list[Text]:
    """As `draw_route`, coloured. `width`: characters of a line, beyond which paths go below the others."""
    from rich.text import Text

    if route.learned is not None:
        return [Text(LEARNED)]
    block = 2 * grid.width + len(GAP)
    across = route.K if width is None else max(1, (width + len(GAP)) // block)
    segment_starts = [None] * route.K if route.segment_starts is None else list(route.segment_starts)
    lines: list[Text] = []
    for first in range(0, route.K, across):
        numbers = range(first, min(first + across, route.K))
        titles = [str(number).ljust(2 * grid.width) for number in numbers]
        lines.append(Text(GAP.join(titles).rstrip(), style="bold"))
        blocks = [rich_path(route.paths[number], grid, segment_starts[number]) for number in numbers]
        lines += [Text(GAP).join(line) for line in zip(*blocks, strict=True)]
    return lines


def _cells(path: Ints, grid: Grid, segment_starts: Ints | None) -> list[list[Cell]]:
    """The cells of all lines, top to bottom; the line between two frames is blank."""
    at = np.flatnonzero(path >= 0)
    leaving = [*_signs(path, at, grid, segment_starts), LAST][: len(at)]
    arriving = [FIRST, *(ARRIVING.get(sign, " ") for sign in leaving[:-1])][: len(at)]
    late = max(len(path) - 1, 1)
    visits = zip(path[at].tolist(), arriving, leaving, at.tolist(), strict=True)
    cell: dict[int, Cell] = {token: (before + after, step / late) for token, before, after, step in visits}
    rows: list[list[Cell]] = []
    for row in range(grid.frames * grid.height):
        if row and row % grid.height == 0:
            rows.append([("  " * grid.width, None)])
        rows.append([cell.get(row * grid.width + column, (f"{UNVISITED} ", None)) for column in range(grid.width)])
    return rows


def _signs(path: Ints, at: Ints, grid: Grid, segment_starts: Ints | None) -> list[str]:
    """What stands between each token that a path visits (at steps `at`) and the next: a reset, a pad or a step."""
    places = np.stack(np.unravel_index(path[at], (grid.frames, grid.height, grid.width)), axis=-1)
    signs = [ARROWS.get((t, r, c), JUMP) for t, r, c in np.diff(places, axis=0).tolist()]
    for i in np.flatnonzero(np.diff(at) > 1):
        signs[i] = PADDED
    if segment_starts is not None:
        for i in np.flatnonzero(np.diff(segment_starts[at])):
            signs[i] = ENDS
    return signs


def _colour(when: float | None) -> str:
    """Blue through violet to red; grey for never."""
    return NEVER if when is None else f"#{int(60 + 195 * when):02x}5a{int(255 - 195 * when):02x}"
