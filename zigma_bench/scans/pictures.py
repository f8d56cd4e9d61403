"""A path drawn for a page: a line over the cells of its grid, coloured by time, as PNG, SVG or a GIF that moves.

Steps to a neighbour are strong lines and jumps thin dashed ones; a reset and a pad leave a gap. Lengths are in inches,
measured from the top left of a page, unless they say cells or points. Matplotlib is imported where it draws.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.grid import Grid
from zigma_bench.scans.route import Ints, Route

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

FRAMES = 120  # of a film at most, and shades of a line
MOST_PANELS = 200  # more would pass the 65,536 pixels a side that can be drawn
DPI, FILM_DPI = 200, 100
CELL, LEAST_HEIGHT, LEAST_WIDTH = 0.42, 0.2, 1.15  # the largest cell, the lowest panel, the narrowest block
MARGIN, GAP, LEADING, LINE, LETTER = 0.25, 0.3, 0.2, 0.15, 0.062  # around all, between blocks, lines, of text, a letter
LATTICE = 64  # cells a side, from which on no lattice is drawn
DASHED = 1500  # jumps, above which dashes are only noise
NARROWEST = 4.6  # page inside its margins: the line that says what the marks mean
GREY, INK = "#d9d9d9", "#222222"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6bb1")  # Okabe and Ito's
MARKS = "osD^vPX*"


@dataclass(frozen=True)
class Panel:
    """One path of a route on its grid; or, where there is none to draw, only a note in its place."""

    grid: Grid
    route: Route | None = None
    path: int = 0
    note: str = ""


@dataclass(frozen=True)
class Block:
    """Panels that belong together, side by side, with a heading above and a caption below."""

    panels: tuple[Panel, ...]
    caption: str
    heading: str = ""


@dataclass(frozen=True)
class Track:
    """A path on the plane: x to the right, y down, in cells; the frames of a clip stand side by side.

    `points` [n, 2] of the tokens visited, `shade` [n] from 0 to `shades` - 1 by time; `link` [n - 1]: "" (a reset or a
    pad between), "step" or "jump"; `pads` [m, 2]: where pads are marked; `ends` [e, 2]: both ends of every segment.
    """

    points: Floats
    shade: Ints
    shades: int
    link: npt.NDArray[np.str_]
    pads: Floats
    ends: Floats


def track(route: Route, number: int, grid: Grid) -> Track:
    """Path `number` of a route as it is drawn."""
    path = route.paths[number]
    at = np.flatnonzero(path >= 0)
    since = np.zeros_like(at) if route.since is None else route.since[number][at]
    t, r, c = np.unravel_index(path[at], (grid.frames, grid.height, grid.width))
    points = np.stack([c + t * (grid.width + 1), r], axis=-1).astype(np.float64)
    moves = np.diff(points, axis=0)
    link = np.where(np.abs(moves).max(-1, initial=0) <= 1, "step", "jump")
    reset = np.diff(since) != 0
    link[reset | (np.diff(at) > 1)] = ""
    shades = min(route.steps, FRAMES)
    first, last = np.append(True, reset), np.append(reset, True)
    ends = points[(first | last)[: len(at)]] if reset.any() else points[:0]
    return Track(points, at * shades // route.steps, shades, link, _pad_marks(points, moves, at, route.steps), ends)


def _pad_marks(points: Floats, moves: Floats, at: Ints, steps: int) -> Floats:
    """A mark for each run of pads: half a cell behind the token it follows, or before the first token."""
    if not len(at):
        return points
    half = _half_cells(moves)
    behind = np.append(np.diff(at) > 1, at[-1] < steps - 1)
    marks = (points + half)[behind]
    return np.concatenate([points[:1] - half[:1], marks]) if at[0] > 0 else marks


def _half_cells(moves: Floats) -> Floats:
    """Half a cell [n, 2] on from each token: towards a next one that is a neighbour, else as the path was going."""
    if not len(moves):
        return np.array([[0.5, 0.0]])
    ahead = np.concatenate([moves, moves[-1:]])
    before = np.concatenate([moves[:1], moves])
    far = (np.abs(ahead).max(-1) > 1) & (np.abs(before).max(-1) <= 1)
    ahead[far] = before[far]
    half: Floats = ahead / np.linalg.norm(ahead, axis=1, keepdims=True) / 2
    return half


def runs(found: Track, kind: str) -> list[tuple[Floats, int]]:
    """The lines of one kind, each with its shade: unbroken stretches [points, 2] of one shade."""
    is_kind, shade = found.link == kind, found.shade[1:]
    joined = is_kind[1:] & is_kind[:-1] & (shade[1:] == shade[:-1])
    starts = np.flatnonzero(is_kind & ~np.append(False, joined)[: len(is_kind)])
    stops = np.flatnonzero(is_kind & ~np.append(joined, False)[: len(is_kind)])
    return [(found.points[i : j + 2], int(shade[i])) for i, j in zip(starts, stops, strict=True)]


def page(
    blocks: Sequence[Block], *, size: float = 2.0, width: float = 9.5, title: str = "", below: float = 0
) -> Figure:
    """Blocks that flow in lines, and what the marks mean. `size`: a panel's longer side; `below`: left free there."""
    return _page(blocks, size=size, width=width, title=title, below=below, muted=False)


def _page(blocks: Sequence[Block], *, size: float, width: float, title: str, below: float, muted: bool) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if (count := sum(len(block.panels) for block in blocks)) > MOST_PANELS:
        raise UsageError("too many panels for a page", expected=f"at most {MOST_PANELS}", got=count, do="give --layer")
    lines = _flow(blocks, size, width)
    across = (
        max(NARROWEST, 7.0 if below else 0, *(sum(_width(b, size) + GAP for b in line) - GAP for line in lines))
        + 2 * MARGIN
    )
    heights = [_height(line, size) for line in lines]
    down = 2 * MARGIN + (0.3 if title else 0) + sum(heights) + LEADING * len(lines) + 0.1 + below
    figure = Figure(figsize=(across, down), facecolor="white")
    FigureCanvasAgg(figure)
    y = MARGIN
    if title:
        _text(figure, MARGIN, y, [title], size=11, weight="bold", ha="left")
        y += 0.3
    for line, height in zip(lines, heights, strict=True):
        x = MARGIN
        for block in line:
            _place(figure, block, x, y, line, size, muted)
            x += _width(block, size) + GAP
        y += height + LEADING
    _legend(figure, y, [panel for block in blocks for panel in block.panels])
    return figure


def _flow(blocks: Sequence[Block], size: float, width: float) -> list[list[Block]]:
    lines: list[list[Block]] = [[]]
    used = 0.0
    for block in blocks:
        if lines[-1] and used + _width(block, size) > width:
            lines.append([])
            used = 0.0
        lines[-1].append(block)
        used += _width(block, size) + GAP
    return lines


def _cell(grid: Grid, size: float) -> float:
    return min(CELL, size / max(grid.height, grid.width))


def _box(panel: Panel, size: float) -> tuple[float, float]:
    """Width and height of a panel."""
    cell = _cell(panel.grid, size)
    cells = panel.grid.frames * (panel.grid.width + 1) - 1
    return max(cells * cell, LEAST_HEIGHT), max(panel.grid.height * cell, LEAST_HEIGHT)


def _width(block: Block, size: float) -> float:
    inner = sum(_box(panel, size)[0] for panel in block.panels) + GAP / 2 * (len(block.panels) - 1)
    return max(inner, LEAST_WIDTH)


def _lines(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, max(8, int(width / LETTER)), break_long_words=True)


def _parts(line: Sequence[Block], size: float) -> tuple[float, float, float]:
    """Heights of headings, panels and captions of a line of blocks."""
    heading = max(len(_lines(b.heading, _width(b, size))) for b in line) * LINE * 1.1
    video = any(panel.grid.video for b in line for panel in b.panels)
    panels = max(_box(panel, size)[1] for b in line for panel in b.panels)
    caption = max(len(_lines(b.caption, _width(b, size))) for b in line) * LINE
    return heading + LINE * video, panels, caption


def _height(line: Sequence[Block], size: float) -> float:
    return sum(_parts(line, size)) + 0.12


def _place(figure: Figure, block: Block, x: float, y: float, line: Sequence[Block], size: float, muted: bool) -> None:
    """Draw one block with its left top at x, y; panels of a line stand on one level."""
    heading, tallest, _ = _parts(line, size)
    level, width = y + heading + tallest, _width(block, size)
    boxes = [_box(panel, size) for panel in block.panels]
    left = x + (width - sum(w for w, _ in boxes) - GAP / 2 * (len(boxes) - 1)) / 2
    for panel, (w, h) in zip(block.panels, boxes, strict=True):
        across, down = figure.get_size_inches()
        axes = figure.add_axes((left / across, 1 - level / down, w / across, h / down))
        _paint(axes, panel, _cell(panel.grid, size), muted)
        left += w + GAP / 2
    words = _lines(block.heading, width)
    video = any(panel.grid.video for panel in block.panels)
    top = level - max(h for _, h in boxes) - LINE * (1.1 * len(words) + video)
    _text(figure, x + width / 2, top, words, size=8.5, weight="bold")
    _text(figure, x + width / 2, level + 0.1, _lines(block.caption, width), size=7.5)


def _text(figure: Figure, x: float, y: float, lines: Sequence[str], *, ha: str = "center", **style: Any) -> None:
    """Lines of text whose top is at y, on baselines that do not depend on the letters."""
    across, down = figure.get_size_inches()
    for number, line in enumerate(lines):
        base = y + LINE * (number + 0.7)
        figure.text(x / across, 1 - base / down, line, ha=ha, va="baseline", color=INK, **style)


# One panel


def _paint(axes: Axes, panel: Panel, cell: float, muted: bool) -> None:
    """Draw a panel into axes whose cells are `cell` inches; `muted`: only a pale path, for a film to go over."""
    grid, points = panel.grid, cell * 72
    _cells(axes, grid, points)
    if panel.note or panel.route is None:
        axes.text(0.5, 0.5, panel.note, transform=axes.transAxes, ha="center", va="center", size=7, color=INK)
        return
    found = track(panel.route, panel.path, grid)
    _shade_unvisited(axes, found, grid)
    for kind in ("jump", "step"):
        lines = line_collection(found, kind, points, runs(found, kind))
        if muted:
            lines.set(color=GREY, alpha=1)
        axes.add_collection(lines, autolim=False)
    axes.plot(*found.pads.T, "x", color="#c0392b", ms=_clip(0.3 * points, 2, 4.5), mew=0.9, zorder=4, clip_on=False)
    if not muted and len(found.points):
        _mark_ends(axes, found, points)


def _mark_ends(axes: Axes, found: Track, points: float) -> None:
    """A disc where the path begins, a square where it ends, and dots at both ends of every segment."""
    size = _clip(0.42 * points, 3, 6.5)
    shades = _shades(found.shades)
    axes.plot(*found.ends.T, "o", color="#555555", ms=0.45 * size, zorder=4)
    edge: dict[str, Any] = {"mec": "white", "mew": 0.6, "zorder": 5, "clip_on": False}
    axes.plot(*found.points[0], "o", color=shades[found.shade[0]], ms=size, **edge)
    axes.plot(
        *found.points[-1], "s", color=shades[found.shade[-1]], ms=size * (0.9 if len(found.points) > 1 else 0.5), **edge
    )


def line_collection(found: Track, kind: str, points: float, lines: Sequence[tuple[Floats, int]]) -> LineCollection:
    """Lines of one kind as Matplotlib draws them, where a cell has so many points."""
    from matplotlib.collections import LineCollection

    shades = _shades(found.shades)
    width = _clip(0.15 * points, 0.35, 1.9)
    drawn = LineCollection([line for line, _ in lines], colors=[shades[shade] for _, shade in lines])
    if kind == "step":
        drawn.set(linewidth=width, capstyle="round", joinstyle="round", zorder=3)
        return drawn
    jumps = int((found.link == "jump").sum())
    drawn.set(linewidth=max(0.3, 0.45 * width), alpha=_clip(600 / max(jumps, 1), 0.02, 0.6), zorder=2)
    if jumps <= DASHED:
        drawn.set_linestyle((0, (3, 2)))
    return drawn


def _cells(axes: Axes, grid: Grid, points: float) -> None:
    """The frames, with thin lines between the cells of a small grid, and limits that leave half a line around."""
    from matplotlib.collections import LineCollection

    h, w = grid.height, grid.width
    fine = 1 if max(h, w) < LATTICE else 0
    lines: list[list[tuple[float, float]]] = []
    for frame in range(grid.frames):
        left = frame * (w + 1) - 0.5
        lines += [[(left + c, -0.5), (left + c, h - 0.5)] for c in (range(w + 1) if fine else (0, w))]
        lines += [[(left, r - 0.5), (left + w, r - 0.5)] for r in (range(h + 1) if fine else (0, h))]
        if grid.video:
            axes.text(left + w / 2, -0.7, f"t = {frame}", ha="center", va="bottom", size=6, color="#666666")
    thin = _clip(0.05 * points, 0.2, 0.4)
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=thin, zorder=0, clip_on=False), autolim=False)
    axes.set(xlim=(-0.5, grid.frames * (w + 1) - 1.5), ylim=(h - 0.5, -0.5), aspect="equal")
    axes.set_axis_off()


def _shade_unvisited(axes: Axes, found: Track, grid: Grid) -> None:
    """Fill the cells that the path never visits."""
    seen = np.zeros((grid.height, grid.frames * (grid.width + 1) - 1), dtype=bool)
    seen[found.points[:, 1].astype(int), found.points[:, 0].astype(int)] = True
    seen[:, grid.width :: grid.width + 1] = True  # the gaps between frames
    if not seen.all():
        fill = np.where(seen[..., None], (255, 255, 255, 0), (243, 243, 243, 255)).astype(np.uint8)
        h, w = seen.shape
        axes.imshow(fill, extent=(-0.5, w - 0.5, h - 0.5, -0.5), interpolation="nearest", zorder=-1)


def _shades(count: int) -> Floats:
    """RGBA from early to late [count, 4]: plasma without its pale end."""
    from matplotlib import colormaps

    return np.asarray(colormaps["plasma"](np.linspace(0, 0.84, count)))


def _clip(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _legend(figure: Figure, y: float, panels: Sequence[Panel]) -> None:
    """What the marks mean, of those that occur, and the colours of time, in a line at y."""
    from matplotlib.lines import Line2D

    found = [track(p.route, p.path, p.grid) for p in panels if p.route is not None and not p.note]
    across, down = figure.get_size_inches()
    early, late = _shades(2)
    marks = [
        Line2D([], [], marker="o", color=early, ls="", ms=5),
        Line2D([], [], marker="s", color=late, ls="", ms=4.5),
    ]
    words = ["first", "last"]
    possible: tuple[tuple[bool, str, dict[str, Any]], ...] = (
        (any((one.link == "jump").any() for one in found), "jump", {"color": INK, "lw": 0.9, "ls": (0, (3, 2))}),
        (
            any(len(one.ends) for one in found),
            "ends of a segment",
            {"color": "#555555", "marker": "o", "ms": 2.5, "ls": ""},
        ),
        (any(len(one.pads) for one in found), "pad", {"color": "#c0392b", "marker": "x", "ms": 4, "ls": ""}),
    )
    for shown, word, style in possible:
        if shown:
            marks.append(Line2D([], [], **style))
            words.append(word)
    ramp = figure.add_axes((MARGIN / across, 1 - (y + 0.13) / down, 0.8 / across, 0.07 / down))
    ramp.imshow(_shades(FRAMES)[None], aspect="auto")
    ramp.set_axis_off()
    figure.legend(
        marks, words, loc="center left", bbox_to_anchor=((MARGIN + 0.85) / across, 1 - (y + 0.1) / down),
        ncols=len(marks), frameon=False, fontsize=7.5, handletextpad=0.4, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip


# Pages and files


def comparison(blocks: Sequence[Block], curves: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """Scans side by side, and below them how far apart in the sequence tokens lie that are d apart on the grid."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    below = 3.2
    figure = page(blocks, title=title, below=below)
    across, down = figure.get_size_inches()
    axes = figure.add_axes((0.85 / across, 0.6 / down, 3.8 / across, (below - 0.9) / down))
    for number, (label, curve) in enumerate(curves.items()):
        under = 1 - (number + 1) / len(curves)  # coinciding lines stay in sight: the earlier are the thicker
        style: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": MARKS[number % len(MARKS)]}
        style |= {"lw": 1.1 + 2 * under, "ms": 4.5 + 3 * under, "mec": "white", "mew": 0.4}
        axes.plot([int(d) for d in curve], list(curve.values()), label=textwrap.fill(label, 36), **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("distance on the grid (Manhattan)", size=8)
    axes.set_ylabel("mean distance in the sequence", size=8)
    axes.xaxis.set(major_formatter="{x:g}", minor_locator=NullLocator())
    axes.yaxis.set(major_locator=LogLocator(10, (1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())
    axes.tick_params(labelsize=7.5, width=0.6)
    axes.grid(color="#eeeeee", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=7.5)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 200 pixels an inch, whole or not at all."""
    _write(path, _rendered(figure, format="png", dpi=DPI))


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, the same bytes for the same figure, whole or not at all."""
    _write(path, _rendered(figure, format="svg", metadata={"Date": None}))


def _rendered(figure: Figure, **how: Any) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "zigma-bench"}):
        figure.savefig(buffer, **how)
    return buffer.getvalue()


def save_gif(blocks: Sequence[Block], path: Path, *, size: float = 2.0, title: str = "") -> None:
    """Write a film in which all paths grow together: a frame a step, or at most 120; whole or not at all."""
    from PIL import Image

    layout: dict[str, Any] = {"size": size, "width": 9.5, "title": title, "below": 0.0}
    still = _page(blocks, **layout, muted=False)
    palette = Image.fromarray(_pixels(still)).quantize(256)
    film = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in (*_frames(_page(blocks, **layout, muted=True), blocks), _pixels(still))
    ]
    colours = np.reshape(film[-1].getpalette() or [], (-1, 3))
    colours[int(np.asarray(film[-1])[0, 0])] = 255  # the paper, which the palette has a shade darker
    for frame in film:
        frame.putpalette(colours.ravel().tolist())
    pause = round(_clip(6000 / len(film), 50, 400))
    buffer = io.BytesIO()
    pauses = [pause] * (len(film) - 1) + [2000]
    film[0].save(buffer, "GIF", save_all=True, append_images=film[1:], duration=pauses, loop=0)
    _write(path, buffer.getvalue())


def _frames(figure: Figure, blocks: Sequence[Block]) -> Iterator[npt.NDArray[np.uint8]]:
    """The pictures [height, width, 3] of a film over a muted page, but for the last: new lines go over the old ones."""
    panels = [panel for block in blocks for panel in block.panels]
    growing = [
        (axes, track(panel.route, panel.path, panel.grid), _cell_points(axes, figure.get_size_inches()[1]))
        for axes, panel in zip(figure.axes, panels, strict=False)  # the axes of the legend come last
        if panel.route is not None and not panel.note
    ]
    _pixels(figure)
    canvas: Any = figure.canvas
    done = canvas.copy_from_bbox(figure.bbox)
    count = max((found.shades for _, found, _ in growing), default=1)
    for frame in range(count - 1):
        canvas.restore_region(done)
        for axes, found, points in growing:
            _draw_now(axes, *_new_lines(found, points, frame, count))
        done = canvas.copy_from_bbox(figure.bbox)
        for axes, found, points in growing:
            _draw_now(axes, *_head(found, points, frame, count))
        yield _buffer(figure)


def _new_lines(found: Track, points: float, frame: int, count: int) -> list[Artist]:
    """What a path grows by in one of `count` frames."""
    kinds = {
        kind: [(line, shade) for line, shade in runs(found, kind) if _when(found, shade, count) == frame]
        for kind in ("jump", "step")
    }
    return [line_collection(found, kind, points, lines) for kind, lines in kinds.items() if lines]


def _head(found: Track, points: float, frame: int, count: int) -> list[Artist]:
    """A disc on the token where a path has come to."""
    from matplotlib.lines import Line2D

    visited = np.flatnonzero(_when(found, found.shade, count) <= frame)
    if not len(visited):
        return []
    x, y = found.points[visited[-1]]
    return [Line2D([x], [y], marker="o", color=INK, mec="white", mew=0.6, ms=_clip(0.42 * points, 3, 6.5))]


def _when(found: Track, shade: Any, count: int) -> Any:
    """The frame, of `count`, in which a shade is drawn."""
    return (shade + 1) * count // found.shades - 1


def _draw_now(axes: Axes, *artists: Artist) -> None:
    """Draw over what the canvas holds."""
    for artist in artists:
        axes.add_artist(artist)
        axes.draw_artist(artist)
        artist.remove()


def _cell_points(axes: Axes, down: float) -> float:
    """The height of a cell on a page that is `down` high."""
    low, high = axes.get_ylim()
    return float(axes.get_position().height * down * 72 / abs(high - low))


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """A figure, drawn, as RGB [height, width, 3]."""
    figure.set_dpi(FILM_DPI)
    figure.canvas.draw()
    return _buffer(figure)


def _buffer(figure: Figure) -> npt.NDArray[np.uint8]:
    canvas: Any = figure.canvas
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _write(path: Path, data: bytes) -> None:
    from zigma_bench.store import write_atomic

    try:
        write_atomic(path, data)
    except OSError as error:
        raise NotReady(
            f"the picture can't be written: {error.strerror}", where=str(path), do="give another file"
        ) from None
