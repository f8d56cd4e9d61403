"""A page of blocks: a title, lines of panels with headings and captions, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zigma_bench.errors import UsageError
from zigma_bench.scans.pictures import layout
from zigma_bench.scans.pictures.layout import GAP, LEADING, LINE, MARGIN, TITLE, PictureBlock
from zigma_bench.scans.pictures.legend import draw_legend
from zigma_bench.scans.pictures.panels import paint_panel
from zigma_bench.scans.pictures.style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 200  # more would exceed the limit of 65,536 pixels per side


def flow_page(
    blocks: Sequence[PictureBlock], *, size: float = 2.0, width: float = 9.5, title: str = "", below: float = 0
) -> Figure:
    """Draw blocks in lines, with a legend. `size`: the longer side of a panel; `below`: free height at the bottom."""
    return draw_page(blocks, size=size, width=width, title=title, below=below, muted=False)


def draw_page(
    blocks: Sequence[PictureBlock], *, size: float, width: float, title: str, below: float = 0, muted: bool
) -> Figure:
    """Like `page`. `muted`: draw pale paths, as the background of an animation."""
    panels = [panel for block in blocks for panel in block.panels]
    if len(panels) > MOST_PANELS:
        expected = f"at most {MOST_PANELS}"
        raise UsageError(
            "too many panels for a page", expected=expected, got=len(panels), do="select layers with --layer"
        )
    lines = layout.flow_blocks(blocks, size, width)
    figure = _paper(layout.page_size(lines, size, title, below))
    _text(figure, MARGIN, MARGIN, [title] if title else [], size=11, weight="bold", ha="left")
    y = MARGIN + (TITLE if title else 0)
    for line in lines:
        _place_line(figure, line, y, size, muted)
        y += layout.height_of(line, size) + LEADING
    draw_legend(figure, y, panels)
    return figure


def _paper(size: tuple[float, float]) -> Figure:
    """A white figure that doesn't need a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _place_line(figure: Figure, line: Sequence[PictureBlock], y: float, size: float, muted: bool) -> None:
    """Draw a line of blocks below y, with panels aligned at the bottom."""
    heading, tallest, _ = layout.line_heights(line, size)
    x, level = MARGIN, y + heading + tallest
    for block in line:
        _place_panels(figure, block, x, level, size, muted)
        _place_words(figure, block, x, level, size)
        x += layout.width_of(block, size) + GAP


def _place_panels(figure: Figure, block: PictureBlock, x: float, level: float, size: float, muted: bool) -> None:
    """Draw the panels of a block, centred in its width, which starts at x."""
    across, down = figure.get_size_inches()
    left = x + (layout.width_of(block, size) - layout.inner_width(block, size)) / 2
    for panel in block.panels:
        w, h = layout.panel_size(panel, size)
        axes = figure.add_axes((left / across, 1 - level / down, w / across, h / down))
        paint_panel(axes, panel, layout.cell_size(panel.grid, size), muted)
        left += w + GAP / 2


def _place_words(figure: Figure, block: PictureBlock, x: float, level: float, size: float) -> None:
    """Draw the heading just above the panels of the block, and the caption below them."""
    width = layout.width_of(block, size)
    heading = layout.wrap_text(block.heading, width)
    top = (
        level
        - max(layout.panel_size(panel, size)[1] for panel in block.panels)
        - LINE * (1.1 * len(heading) + block.video)
    )
    _text(figure, x + width / 2, top, heading, size=8.5, weight="bold")
    _text(figure, x + width / 2, level + 0.1, layout.wrap_text(block.caption, width), size=7.5)


def _text(figure: Figure, x: float, y: float, lines: Sequence[str], *, ha: str = "center", **style: Any) -> None:
    """Draw lines of text with their top at y. The baselines don't depend on the letters."""
    across, down = figure.get_size_inches()
    for number, line in enumerate(lines):
        base = y + LINE * (number + 0.7)
        figure.text(x / across, 1 - base / down, line, ha=ha, va="baseline", color=INK, **style)
