"""The layout of a page: the sizes of blocks of panels, and their arrangement in lines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.pictures.panels import Panel

CELL, LEAST_HEIGHT, LEAST_WIDTH = 0.42, 0.2, 1.15  # the largest cell, the lowest panel, the narrowest block
MARGIN, GAP, LEADING = 0.25, 0.3, 0.2  # around the page, between blocks, between lines of blocks
LINE, LETTER = 0.15, 0.062  # the height of a line of text, the width of a letter
TITLE = 0.3  # height
NARROWEST, WITH_FOOT = 4.6, 7.0  # least width inside the margins, for the legend and for a plot below


@dataclass(frozen=True)
class PictureBlock:
    """Panels side by side with a common heading above and a common caption below."""

    panels: tuple[Panel, ...]
    caption: str
    heading: str = ""

    @property
    def video(self) -> bool:
        """Whether a panel shows a clip, which needs a line above it for frame numbers."""
        return any(panel.grid.video for panel in self.panels)


def flow_blocks(blocks: Sequence[PictureBlock], size: float, width: float) -> list[list[PictureBlock]]:
    """Arrange blocks in lines no wider than `width`. `size`: the longer side of a panel."""
    lines: list[list[PictureBlock]] = [[]]
    used = 0.0
    for block in blocks:
        if lines[-1] and used + width_of(block, size) > width:
            lines.append([])
            used = 0.0
        lines[-1].append(block)
        used += width_of(block, size) + GAP
    return lines


def page_size(lines: Sequence[Sequence[PictureBlock]], size: float, title: str, below: float) -> tuple[float, float]:
    """Width and height of a page with these lines. `below`: free height at the bottom."""
    widest = max(sum(width_of(block, size) + GAP for block in line) - GAP for line in lines)
    across = max(NARROWEST, WITH_FOOT if below else 0, widest) + 2 * MARGIN
    heights = sum(height_of(line, size) for line in lines)
    return across, 2 * MARGIN + (TITLE if title else 0) + heights + LEADING * len(lines) + 0.1 + below


def cell_size(grid: Grid, size: float) -> float:
    """The side of a cell."""
    return min(CELL, size / max(grid.height, grid.width))


def panel_size(panel: Panel, size: float) -> tuple[float, float]:
    """Width and height of a panel."""
    cell = cell_size(panel.grid, size)
    cells = panel.grid.frames * (panel.grid.width + 1) - 1
    return max(cells * cell, LEAST_HEIGHT), max(panel.grid.height * cell, LEAST_HEIGHT)


def inner_width(block: PictureBlock, size: float) -> float:
    """The width of a block's panels including the gaps between them."""
    return sum(panel_size(panel, size)[0] for panel in block.panels) + GAP / 2 * (len(block.panels) - 1)


def width_of(block: PictureBlock, size: float) -> float:
    """The width of a block."""
    return max(inner_width(block, size), LEAST_WIDTH)


def height_of(line: Sequence[PictureBlock], size: float) -> float:
    """The height of a line of blocks."""
    return sum(line_heights(line, size)) + 0.12


def line_heights(line: Sequence[PictureBlock], size: float) -> tuple[float, float, float]:
    """The heights of headings, panels and captions in a line of blocks."""
    heading = max(len(wrap_text(b.heading, width_of(b, size))) for b in line) * LINE * 1.1
    panels = max(panel_size(panel, size)[1] for b in line for panel in b.panels)
    caption = max(len(wrap_text(b.caption, width_of(b, size))) for b in line) * LINE
    return heading + LINE * any(b.video for b in line), panels, caption


def wrap_text(text: str, width: float) -> list[str]:
    """Wrap a text to lines of this width."""
    return textwrap.wrap(text, max(8, int(width / LETTER)), break_long_words=True)
