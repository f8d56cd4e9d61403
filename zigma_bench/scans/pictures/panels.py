"""Draw one panel: the lattice of a grid, the path coloured from early to late, and the marks at its ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.pictures.style import GREY, INK, MUTED, PAD, Floats, clip_value, disc_size, time_shades
from zigma_bench.scans.pictures.tracks import Track, make_track, track_runs
from zigma_bench.scans.route import Route

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection

LATTICE = 64  # grids with this many cells per side or more are drawn without a lattice
DASHED = 1500  # with more jumps than this, lines are solid because dashes would be noise

Line = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One path of a route on its grid, or a note instead of a path."""

    grid: Grid
    route: Route | None = None
    path: int = 0
    note: str = ""

    @property
    def track(self) -> Track | None:
        """The geometry of the path; None for a note."""
        return None if self.note or self.route is None else make_track(self.route, self.path, self.grid)


def paint_panel(axes: Axes, panel: Panel, cell: float, muted: bool) -> None:
    """Draw a panel with cells of `cell` inches. `muted`: only a pale path, as the background of an animation."""
    points, found = cell * 72, panel.track
    _draw_grid(axes, panel.grid, points)
    if found is None:
        axes.text(0.5, 0.5, panel.note, transform=axes.transAxes, ha="center", va="center", size=7, color=INK)
        return
    _shade_unvisited(axes, found, panel.grid)
    _draw_path(axes, found, points, muted)
    axes.plot(*found.pads.T, "x", color=PAD, ms=clip_value(0.3 * points, 2, 4.5), mew=0.9, zorder=4, clip_on=False)
    if not muted and len(found.points):
        _mark_ends(axes, found, points)


def _draw_path(axes: Axes, found: Track, points: float, muted: bool) -> None:
    for kind in ("jump", "step"):
        lines = line_collection(found, kind, points, track_runs(found, kind))
        if muted:
            lines.set(color=GREY, alpha=1)
        axes.add_collection(lines, autolim=False)


def line_collection(found: Track, kind: str, points: float, lines: Sequence[tuple[Floats, int]]) -> LineCollection:
    """The Matplotlib collection for the lines of one kind. `points`: the size of a cell in points."""
    from matplotlib.collections import LineCollection

    colours = time_shades(found.shades)
    width = clip_value(0.15 * points, 0.35, 1.9)
    drawn = LineCollection([line for line, _ in lines], colors=[colours[shade] for _, shade in lines])
    if kind == "step":
        drawn.set(linewidth=width, capstyle="round", joinstyle="round", zorder=3)
        return drawn
    jumps = int((found.link == "jump").sum())
    drawn.set(linewidth=max(0.3, 0.45 * width), alpha=clip_value(600 / max(jumps, 1), 0.02, 0.6), zorder=2)
    if jumps <= DASHED:
        drawn.set_linestyle((0, (3, 2)))
    return drawn


def _mark_ends(axes: Axes, found: Track, points: float) -> None:
    """Draw a disc at the start of the path, a square at its end, and dots at both ends of each segment."""
    size, colours = disc_size(points), time_shades(found.shades)
    first, last = colours[found.shade[0]], colours[found.shade[-1]]
    edge: dict[str, Any] = {"mec": "white", "mew": 0.6, "zorder": 5, "clip_on": False}
    axes.plot(*found.ends.T, "o", color=MUTED, ms=0.45 * size, zorder=4)
    axes.plot(*found.points[0], "o", color=first, ms=size, **edge)
    axes.plot(*found.points[-1], "s", color=last, ms=size * (0.9 if len(found.points) > 1 else 0.5), **edge)


def _draw_grid(axes: Axes, grid: Grid, points: float) -> None:
    """Draw the frames, with thin lines between the cells of a small grid, and set the limits of the axes."""
    from matplotlib.collections import LineCollection

    lines = [line for frame in range(grid.frames) for line in _lattice(grid, frame)]
    for frame in range(grid.frames) if grid.video else ():
        middle = frame * (grid.width + 1) - 0.5 + grid.width / 2
        axes.text(middle, -0.7, f"t = {frame}", ha="center", va="bottom", size=6, color="#666666")
    thin = clip_value(0.05 * points, 0.2, 0.4)
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=thin, zorder=0, clip_on=False), autolim=False)
    right = grid.frames * (grid.width + 1) - 1.5
    axes.set(xlim=(-0.5, right), ylim=(grid.height - 0.5, -0.5), aspect="equal")
    axes.set_axis_off()


def _lattice(grid: Grid, frame: int) -> list[Line]:
    """The lines of one frame: around each cell of a small grid, else around the frame."""
    h, w = grid.height, grid.width
    left = frame * (w + 1) - 0.5
    columns, rows = (range(w + 1), range(h + 1)) if max(h, w) < LATTICE else ((0, w), (0, h))
    upright: list[Line] = [((left + c, -0.5), (left + c, h - 0.5)) for c in columns]
    return upright + [((left, r - 0.5), (left + w, r - 0.5)) for r in rows]


def _shade_unvisited(axes: Axes, found: Track, grid: Grid) -> None:
    """Fill the cells that the path doesn't visit."""
    seen = np.zeros((grid.height, grid.frames * (grid.width + 1) - 1), dtype=bool)
    seen[found.points[:, 1].astype(int), found.points[:, 0].astype(int)] = True
    seen[:, grid.width :: grid.width + 1] = True  # the gaps between frames
    if not seen.all():
        fill = np.where(seen[..., None], (255, 255, 255, 0), (243, 243, 243, 255)).astype(np.uint8)
        h, w = seen.shape
        axes.imshow(fill, extent=(-0.5, w - 0.5, h - 0.5, -0.5), interpolation="nearest", zorder=-1)
