"""Scans compared on a page: side by side, and below them how far apart in the sequence neighbours come to lie."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zigma_bench.scans.pictures.layout import Block
from zigma_bench.scans.pictures.pages import page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BELOW = 3.2  # the panels: the height of the curves with their labels
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6bb1")  # Okabe and Ito's
MARKS = "osD^vPX*"


def comparison(blocks: Sequence[Block], curves: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """Scans side by side, and below them how far apart in the sequence tokens lie that are d apart on the grid."""
    figure = page(blocks, title=title, below=BELOW)
    across, down = figure.get_size_inches()
    axes = figure.add_axes((0.85 / across, 0.6 / down, 3.8 / across, (BELOW - 0.9) / down))
    for number, (label, curve) in enumerate(curves.items()):
        style = _line_style(number, len(curves))
        axes.plot([int(d) for d in curve], list(curve.values()), label=textwrap.fill(label, 36), **style)
    _scale(axes)
    _dress(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=7.5)
    return figure


def _line_style(number: int, count: int) -> dict[str, Any]:
    """Coinciding lines stay in sight: the earlier are the thicker."""
    under = 1 - (number + 1) / count
    style: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": MARKS[number % len(MARKS)]}
    return style | {"lw": 1.1 + 2 * under, "ms": 4.5 + 3 * under, "mec": "white", "mew": 0.4}


def _scale(axes: Axes) -> None:
    """Both logarithmic: powers of two across, and upwards 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set(major_formatter="{x:g}", minor_locator=NullLocator())
    axes.yaxis.set(major_locator=LogLocator(10, (1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())


def _dress(axes: Axes) -> None:
    axes.set_xlabel("distance on the grid (Manhattan)", size=8)
    axes.set_ylabel("mean distance in the sequence", size=8)
    axes.tick_params(labelsize=7.5, width=0.6)
    axes.grid(color="#eeeeee", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
