"""What was drawn, for a person to look at, uncurated: images as a sheet, clips as strips of frames and as a film.

Small images are enlarged by whole pixels.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from zigma_bench.data.images import Pixels
from zigma_bench.records.store import write_atomic

SIDE = 8  # images a row, and rows
SMALLEST = 48  # pixels that an image is shown on at least
FRAMES = 16  # of a clip, on a strip
FRAME_MILLISECONDS = 125
GRID, FILM = "grid.png", "clips.webp"


def write_sheets(folder: Path, pixels: Pixels) -> None:
    """The first 64 images as `grid.png`; of clips, strips of the first 8 there, and the first 64 as `clips.webp`."""
    if pixels.ndim == 4:
        write_grid(folder / GRID, pixels)
    else:
        write_strips(folder / GRID, pixels)
        write_film(folder / FILM, pixels)


def write_grid(path: Path, pixels: Pixels) -> None:
    """The first 64 images, uint8 [N, C, H, W], as one PNG, 8 a row."""
    _save(path, [_image(_sheet(pixels[: SIDE * SIDE]))], format="PNG")


def write_strips(path: Path, clips: Pixels) -> None:
    """The first 8 clips, uint8 [N, T, C, H, W], as one PNG: a row each, its frames from left to right.

    Of a longer clip 16 frames, evenly spread from the first to the last.
    """
    shown = clips[:SIDE]
    if (frames := shown.shape[1]) > FRAMES:
        shown = shown[:, np.rint(np.linspace(0, frames - 1, FRAMES)).astype(np.int64)]
    rows = shown.reshape(-1, *shown.shape[2:])
    _save(path, [_image(_sheet(rows, columns=shown.shape[1]))], format="PNG")


def write_film(path: Path, clips: Pixels) -> None:
    """The first 64 clips, 8 a row, as one animated WebP without loss, 8 frames a second, again and again."""
    shown = clips[: SIDE * SIDE]
    save_film(path, np.stack([_sheet(shown[:, frame]) for frame in range(shown.shape[1])]))


def save_film(path: Path, frames: Pixels) -> None:
    """One clip, uint8 [T, C, H, W], as an animated WebP without loss, 8 frames a second, again and again."""
    images = [_image(frame).convert("RGB") for frame in frames]
    _save(path, images, format="WEBP", lossless=True, duration=FRAME_MILLISECONDS, loop=0)


def read_film(path: Path) -> Pixels:
    """The frames of an animated WebP, uint8 [T, 3, H, W]."""
    from PIL import Image, ImageSequence

    with Image.open(path) as film:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def _sheet(pixels: Pixels, columns: int = SIDE) -> Pixels:
    """Images [N, C, H, W] as one [C, rows * (H + 2), columns * (W + 2)], enlarged and each with an edge."""
    enlarge = max(1, SMALLEST // max(pixels.shape[2:]))
    tiles = [
        np.pad(tile, ((0, 0), (1, 1), (1, 1)), constant_values=64)
        for tile in pixels.repeat(enlarge, 2).repeat(enlarge, 3)
    ]
    while len(tiles) % columns:
        tiles.append(np.zeros_like(tiles[0]))
    rows = [np.concatenate(tiles[i : i + columns], axis=2) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=1)


def _image(sheet: Pixels) -> Any:
    from PIL import Image

    return Image.fromarray(sheet[0] if sheet.shape[0] == 1 else sheet.transpose(1, 2, 0))


def _save(path: Path, images: list[Any], **how: Any) -> None:
    """One image, or several as a film, whole or absent."""
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if len(images) > 1 else {}
    images[0].save(buffer, **more, **how)
    write_atomic(path, buffer.getvalue())
