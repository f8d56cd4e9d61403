"""Draw an efficiency suite: one panel per speed and batch, one curve per network over the number of tokens."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zigma_bench.errors import UsageError, nearest
from zigma_bench.reports.crossings import Crossing, Curve, find_crossings, speed_curves
from zigma_bench.reports.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS, WIDE, HIGH, LEGEND = 3, 4.0, 3.1, 2.3  # panels in a row; inches of a panel, and of the labels beside them
MARKED = 6  # most marked crossings per panel; more would overlap, and the report lists all
SUFFIXES = (".png", ".svg")


def draw_curves(tables: Sequence[Table], file: Path) -> None:
    """Write the curves of the only table that has any, as PNG or SVG.

    UsageError if no table or several tables have curves, and for a file of another kind.
    """
    from zigma_bench.scans.pictures import save_png, save_svg

    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(
            "curves are drawn as PNG or SVG", where="--plot", expected="a file that ends with .png or .svg",
            got=file.name, nearest=nearest(file.suffix.lower(), SUFFIXES),
        )  # fmt: skip
    drawable = [table for table in tables if _curves_of(table)]
    if len(drawable) != 1:
        raise UsageError(
            "curves need the results of exactly one efficiency suite, timed at two lengths or more", where="--plot",
            got=", ".join(table.suite for table in drawable) or f"none among {len(tables)} table(s)",
            do="name the folder of its results",
        )  # fmt: skip
    (save_png if file.suffix.lower() == ".png" else save_svg)(_page(drawable[0]), file)


def _curves_of(table: Table) -> list[Curve]:
    return [curve for curve in speed_curves(table) if len(curve.points) > 1]


def _page(table: Table) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found, met = _curves_of(table), find_crossings(table)
    panels = list(dict.fromkeys((curve.metric, curve.batch) for curve in found))
    labels = list(dict.fromkeys(curve.label for curve in found))
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure((across * WIDE + LEGEND, down * HIGH + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        own = [curve for curve in found if (curve.metric, curve.batch) == panel]
        _panel(axes, own, labels, [one for one in met if (one.metric, one.batch) == panel])
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle("\n".join((f"{table.suite}: {table.question}", "; ".join(table.machines))), size=9)
    handles = {handle.get_label(): handle for axes in grid.flat for handle in axes.get_lines()}
    shown = {textwrap.fill(label, 30): handles[label] for label in labels}
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", frameon=False, fontsize=7.5)
    return figure


def _panel(axes: Axes, own: Sequence[Curve], labels: Sequence[str], met: Sequence[Crossing]) -> None:
    from zigma_bench.scans.pictures.style import GREY, LINES, MARKS, MUTED, draw_log_curves

    for curve in own:
        number = labels.index(curve.label)
        axes.plot(
            list(curve.points), list(curve.points.values()), label=curve.label, lw=1.3, ms=4.5,
            color=LINES[number % len(LINES)], marker=MARKS[number % len(MARKS)],
        )  # fmt: skip
    draw_log_curves(axes)
    if len(met) > MARKED:
        axes.text(0.02, 0.03, f"{len(met)} crossings: see the report", transform=axes.transAxes, size=6.5, color=MUTED)
        met = ()
    for number, crossing in enumerate(sorted(met, key=lambda one: one.tokens)):
        axes.axvline(crossing.tokens, color=GREY, lw=1, zorder=0)
        place = (crossing.tokens, 0.03 + 0.07 * (number % 3))
        axes.annotate(
            f"{crossing.tokens:,.0f}", place, xycoords=("data", "axes fraction"), size=6.5, color=MUTED, ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    better = "higher" if own[0].rising else "lower"
    axes.set_title(f"{own[0].metric}, batch {own[0].batch}: {better} is better", size=8)
    axes.set_xlabel("tokens", size=8)
    axes.set_ylabel(own[0].unit, size=8)
