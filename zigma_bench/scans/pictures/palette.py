"""Reduce pictures to 256 colours on a white background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = 256


def few_colours(picture: npt.NDArray[np.uint8]) -> Image:
    """Reduce an RGB picture [height, width, 3] to its best 256 colours, on white."""
    from PIL import Image

    found = Image.fromarray(picture)
    drawn = found.quantize(palette=_palette(found), dither=Image.Dither.NONE)
    whiten_paper([drawn])
    return drawn


def _palette(picture: Image) -> Image:
    """The palette. A colour's weight is the root of its pixel count, so that rare colours (such as pads) survive."""
    from PIL import Image

    colours, counts = np.unique(np.frombuffer(picture.convert("RGBA").tobytes(), np.uint32), return_counts=True)
    weighed = np.repeat(colours, np.ceil(np.sqrt(counts)).astype(int)).view(np.uint8)
    row = Image.fromarray(np.ascontiguousarray(weighed.reshape(1, -1, 4)[..., :3]))
    return row.quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE)


def whiten_paper(pictures: Sequence[Image]) -> None:
    """Make the background white. The common palette of the pictures has it slightly darker; it is the colour of the
    corner of the last picture."""
    colours = np.reshape(pictures[-1].getpalette() or [], (-1, 3))
    colours[int(np.asarray(pictures[-1])[0, 0])] = 255
    for picture in pictures:
        picture.putpalette(colours.ravel().tolist())
