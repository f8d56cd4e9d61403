"""Convert a figure to pixels, and write it atomically as PNG or SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import NotReady
from zigma_bench.scans.pictures.palette import few_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = npt.NDArray[np.uint8]

DPI = 200


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, at 200 pixels per inch and in 256 colours (a third of the size)."""
    buffer = io.BytesIO()
    few_colours(figure_pixels(figure, DPI)).save(buffer, "PNG", optimize=True, dpi=(DPI, DPI))
    write_picture(path, buffer.getvalue())


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, atomically. Equal figures give equal bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "zigma-bench"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_picture(path, buffer.getvalue())


def figure_pixels(figure: Figure, dpi: int) -> Pixels:
    """Draw a figure and return its pixels, RGB [height, width, 3]."""
    figure.set_dpi(dpi)
    figure.canvas.draw()
    return drawn_pixels(figure)


def drawn_pixels(figure: Figure) -> Pixels:
    """The current pixels of a figure's canvas, RGB [height, width, 3]."""
    canvas: Any = figure.canvas
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_picture(path: Path, data: bytes) -> None:
    """Write a picture file atomically. NotReady if that fails."""
    from zigma_bench.records.store import write_atomic

    try:
        write_atomic(path, data)
    except OSError as error:
        raise NotReady(
            f"the picture can't be written: {error.strerror}", where=str(path), do="choose another file"
        ) from None
