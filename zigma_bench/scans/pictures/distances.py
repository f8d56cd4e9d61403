"""Compare scans on a page: their paths side by side, and below them sequence distance against grid distance."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zigma_bench.scans.pictures.layout import PictureBlock
from zigma_bench.scans.pictures.pages import flow_page
from zigma_bench.scans.pictures.style import LINES, MARKS, draw_log_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BELOW = 3.2  # the panels: the height of the curves with their labels


def comparison_figure(
    blocks: Sequence[PictureBlock], curves: Mapping[str, Mapping[str, float]], *, title: str = ""
) -> Figure:
    """Draw scans side by side, and below them the mean sequence distance of tokens that are d apart on the grid."""
    figure = flow_page(blocks, title=title, below=BELOW)
    across, down = figure.get_size_inches()
    axes = figure.add_axes((0.85 / across, 0.6 / down, 3.8 / across, (BELOW - 0.9) / down))
    for number, (label, curve) in enumerate(curves.items()):
        style = _line_style(number, len(curves))
        axes.plot([int(d) for d in curve], list(curve.values()), label=textwrap.fill(label, 36), **style)
    draw_log_curves(axes)
    axes.set_xlabel("distance on the grid (Manhattan)", size=8)
    axes.set_ylabel("mean distance in the sequence", size=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=7.5)
    return figure


def _line_style(number: int, count: int) -> dict[str, Any]:
    """Earlier lines are thicker, so that coinciding lines stay visible."""
    extra = 1 - (number + 1) / count
    style: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": MARKS[number % len(MARKS)]}
    return style | {"lw": 1.1 + 2 * extra, "ms": 4.5 + 3 * extra, "mec": "white", "mew": 0.4}
