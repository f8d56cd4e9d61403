"""Draw a scan path in the terminal: an arrow to the next token in each cell, coloured from blue (early) to red (late).

o→ → → ↓        o first token    → step to a neighbour    * a jump starts              . not on this path
 ↓ ← ← ←        > a jump ends    ] a segment ends         [ a segment starts           ~ a pad in between
 → → → #        # last token     + the same position in the next or previous frame
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
    f"{FIRST} first  {LAST} last  {JUMP} a jump starts  {LANDING} a jump ends  "
    f"{STARTS} {ENDS} a segment starts, ends  {PADDED} a pad in between  {UNVISITED} not on this path"
)
ARRIVING = {JUMP: LANDING, ENDS: STARTS, PADDED: PADDED}
LEARNED = "the order is learned: each sample has its own"
GAP = "   "
NEVER = "#808080"

Cell = tuple[str, float | None]  # two characters, and the visit time: 0 first step, 1 last step, None never


def draw_path(path: Ints, grid: Grid, segment_starts: Ints | None = None) -> list[str]:
    """Draw one path [S] as lines of 2 W characters. The frames of a clip are stacked with a blank line in between.

    `segment_starts` [S]: the first step of each step's segment, if there are several (a row of
    `Route.segment_starts`).
    """
    return ["".join(text for text, _ in row) for row in _draw_cells(path, grid, segment_starts)]


def draw_route(route: Route, grid: Grid) -> str:
    """Draw all paths of a route side by side, with their numbers. For a learned order, return a note instead."""
    return "\n".join(line.plain.rstrip() for line in rich_route(route, grid))


def rich_path(path: Ints, grid: Grid, segment_starts: Ints | None = None) -> list[Text]:
    """Like `draw_path`, coloured from blue (early) to red (late)."""
    from rich.text import Text

    cells = _draw_cells(path, grid, segment_starts)
    return [Text.assemble(*((text, _time_colour(when)) for text, when in row)) for row in cells]


def rich_route(route: Route, grid: Grid, *, width: int | None = None) -> list[Text]:
    """Like `draw_route`, coloured. `width`: the maximal characters per line; further paths go below."""
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


def _draw_cells(path: Ints, grid: Grid, segment_starts: Ints | None) -> list[list[Cell]]:
    """The cells of all lines from top to bottom, with a blank line between two frames."""
    at = np.flatnonzero(path >= 0)
    leaving = [*_step_signs(path, at, grid, segment_starts), LAST][: len(at)]
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


def _step_signs(path: Ints, at: Ints, grid: Grid, segment_starts: Ints | None) -> list[str]:
    """The sign between each visited token (at steps `at`) and the next: a segment end, a pad, an arrow or a jump."""
    places = np.stack(np.unravel_index(path[at], (grid.frames, grid.height, grid.width)), axis=-1)
    signs = [ARROWS.get((t, r, c), JUMP) for t, r, c in np.diff(places, axis=0).tolist()]
    for i in np.flatnonzero(np.diff(at) > 1):
        signs[i] = PADDED
    if segment_starts is not None:
        for i in np.flatnonzero(np.diff(segment_starts[at])):
            signs[i] = ENDS
    return signs


def _time_colour(when: float | None) -> str:
    """The colour of a visit time: blue through violet to red, or grey for never."""
    return NEVER if when is None else f"#{int(60 + 195 * when):02x}5a{int(255 - 195 * when):02x}"
