"""Common style of all pictures: the colours of time, marks and curves, and the sizes of marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

FRAMES = 120  # at most this many frames in an animation, and shades of a path
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6bb1")  # Okabe and Ito's
MARKS = "osD^vPX*"
INK, GREY, MUTED, PAD = "#222222", "#d9d9d9", "#555555", "#c0392b"


def time_shades(count: int) -> Floats:
    """RGBA colours from early to late [count, 4]: plasma without its pale end."""
    from matplotlib import colormaps

    return np.asarray(colormaps["plasma"](np.linspace(0, 0.84, count)))


def clip_value(value: float, least: float, most: float) -> float:
    """The value, limited to [least, most]."""
    return min(max(value, least), most)


def disc_size(points: float) -> float:
    """The size of a disc on a cell of `points` points."""
    return clip_value(0.42 * points, 3, 6.5)


def draw_log_curves(axes: Axes) -> None:
    """Make both axes logarithmic: x ticks at powers of two, y ticks at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set(major_formatter="{x:g}", minor_locator=NullLocator())
    axes.yaxis.set(major_locator=LogLocator(10, (1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())
    axes.tick_params(labelsize=7.5, width=0.6)
    axes.grid(color="#eeeeee", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
