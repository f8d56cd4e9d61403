"""The legend of a page: its marks and the colours of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zigma_bench.scans.pictures.layout import MARGIN
from zigma_bench.scans.pictures.panels import Panel
from zigma_bench.scans.pictures.style import FRAMES, INK, MUTED, PAD, time_shades
from zigma_bench.scans.pictures.tracks import Track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Style = dict[str, Any]

MARKS: dict[str, Style] = {
    "jump": {"color": INK, "lw": 0.9, "ls": (0, (3, 2))},
    "ends of a segment": {"color": MUTED, "marker": "o", "ms": 2.5, "ls": ""},
    "pad": {"color": PAD, "marker": "x", "ms": 4, "ls": ""},
}


def draw_legend(figure: Figure, y: float, panels: Sequence[Panel]) -> None:
    """Draw the legend at y: the marks that occur on the panels, and the colours of time."""
    from matplotlib.lines import Line2D

    marks = _marks([found for panel in panels if (found := panel.track) is not None])
    across, down = figure.get_size_inches()
    _ramp(figure, y)
    figure.legend(
        [Line2D([], [], **style) for style in marks.values()], list(marks), loc="center left",
        bbox_to_anchor=((MARGIN + 0.85) / across, 1 - (y + 0.1) / down), ncols=len(marks), frameon=False,
        fontsize=7.5, handletextpad=0.4, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip


def _marks(found: Sequence[Track]) -> dict[str, Style]:
    """The marks that occur, by label."""
    early, late = time_shades(2)
    marks: dict[str, Style] = {
        "first": {"marker": "o", "color": early, "ls": "", "ms": 5},
        "last": {"marker": "s", "color": late, "ls": "", "ms": 4.5},
    }
    occurs = {
        "jump": any((one.link == "jump").any() for one in found),
        "ends of a segment": any(len(one.ends) for one in found),
        "pad": any(len(one.pads) for one in found),
    }
    return marks | {word: style for word, style in MARKS.items() if occurs[word]}


def _ramp(figure: Figure, y: float) -> None:
    """Draw the colours of time, from early to late."""
    across, down = figure.get_size_inches()
    ramp = figure.add_axes((MARGIN / across, 1 - (y + 0.13) / down, 0.8 / across, 0.07 / down))
    ramp.imshow(time_shades(FRAMES)[None], aspect="auto")
    ramp.set_axis_off()
