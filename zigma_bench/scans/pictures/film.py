"""An animation in which all paths of a page grow together, drawn over a page with pale paths."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zigma_bench.scans.pictures.files import Pixels, drawn_pixels, figure_pixels, write_picture
from zigma_bench.scans.pictures.layout import PictureBlock
from zigma_bench.scans.pictures.pages import draw_page
from zigma_bench.scans.pictures.palette import COLOURS, whiten_paper
from zigma_bench.scans.pictures.panels import line_collection
from zigma_bench.scans.pictures.style import INK, clip_value, disc_size
from zigma_bench.scans.pictures.tracks import Track, track_runs

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

DPI = 100
WHOLE, LAST = 6000, 2000  # milliseconds: all frames except the last, and the last

Growing = tuple["Axes", Track, float]  # the axes of a path, the path, and the size of a cell in points


def save_gif(blocks: Sequence[PictureBlock], path: Path, *, size: float = 2.0, title: str = "") -> None:
    """Write a GIF in which all paths grow together, atomically: one frame per step, at most 120."""
    layout: dict[str, Any] = {"size": size, "width": 9.5, "title": title}
    still = figure_pixels(draw_page(blocks, **layout, muted=False), DPI)
    film = _in_colours_of(still, chain(_frames(draw_page(blocks, **layout, muted=True), blocks), [still]))
    write_picture(path, _encoded(film))


def _in_colours_of(still: Pixels, frames: Iterable[Pixels]) -> list[Image]:
    """Convert all frames to the palette of the final picture, with a white background."""
    from PIL import Image

    palette = Image.fromarray(still).quantize(COLOURS)
    film = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    whiten_paper(film)
    return film


def _encoded(film: Sequence[Image]) -> bytes:
    """Encode a looping GIF with a pause at the end."""
    pauses = [round(clip_value(WHOLE / len(film), 50, 400))] * (len(film) - 1) + [LAST]
    buffer = io.BytesIO()
    film[0].save(buffer, "GIF", save_all=True, append_images=film[1:], duration=pauses, loop=0)
    return buffer.getvalue()


def _frames(figure: Figure, blocks: Sequence[PictureBlock]) -> Iterator[Pixels]:
    """The frames [height, width, 3] over a page with pale paths, except the last frame."""
    growing = _growing(figure, blocks)
    figure_pixels(figure, DPI)
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
        yield drawn_pixels(figure)


def _growing(figure: Figure, blocks: Sequence[PictureBlock]) -> list[Growing]:
    panels = [panel for block in blocks for panel in block.panels]
    down = figure.get_size_inches()[1]
    return [
        (axes, found, _cell_points(axes, down))
        for axes, panel in zip(figure.axes, panels, strict=False)  # the axes of the legend come last
        if (found := panel.track) is not None
    ]


def _cell_points(axes: Axes, down: float) -> float:
    """The height of a cell in points on a page that is `down` inches high."""
    low, high = axes.get_ylim()
    return float(axes.get_position().height * down * 72 / abs(high - low))


def _new_lines(found: Track, points: float, frame: int, count: int) -> list[Artist]:
    """The lines that frame `frame` of `count` adds to a path."""
    kinds = {
        kind: [(line, shade) for line, shade in track_runs(found, kind) if _frame_of(found, shade, count) == frame]
        for kind in ("jump", "step")
    }
    return [line_collection(found, kind, points, lines) for kind, lines in kinds.items() if lines]


def _head(found: Track, points: float, frame: int, count: int) -> list[Artist]:
    """A disc on the current token of a path."""
    from matplotlib.lines import Line2D

    visited = np.flatnonzero(_frame_of(found, found.shade, count) <= frame)
    if not len(visited):
        return []
    x, y = found.points[visited[-1]]
    return [Line2D([x], [y], marker="o", color=INK, mec="white", mew=0.6, ms=disc_size(points))]


def _frame_of(found: Track, shade: Any, count: int) -> Any:
    """The frame, out of `count`, in which a shade is drawn."""
    return (shade + 1) * count // found.shades - 1


def _draw_now(axes: Axes, *artists: Artist) -> None:
    """Draw over the current content of the canvas."""
    for artist in artists:
        axes.add_artist(artist)
        axes.draw_artist(artist)
        artist.remove()
