"""What all drawings share: the colours of time and of marks, and how large marks are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FRAMES = 120  # of a film at most, and shades of a line
INK, GREY, MUTED, PAD = "#222222", "#d9d9d9", "#555555", "#c0392b"


def shades(count: int) -> Floats:
    """RGBA from early to late [count, 4]: plasma without its pale end."""
    from matplotlib import colormaps

    return np.asarray(colormaps["plasma"](np.linspace(0, 0.84, count)))


def clip(value: float, least: float, most: float) -> float:
    """The value, or the bound that it passes."""
    return min(max(value, least), most)


def disc(points: float) -> float:
    """The size of a disc on a cell of so many points."""
    return clip(0.42 * points, 3, 6.5)
