"""Overview pictures of the samples, uncurated: a grid of images, or strips of frames and an animation of clips.

Small images are enlarged by an integer factor.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from zigma_bench.data.images import Pixels
from zigma_bench.records.store import write_atomic

SIDE = 8  # images per row, and rows
SMALLEST = 48  # shown images are enlarged up to this many pixels
FRAMES = 16  # at most this many frames per strip
FRAME_MILLISECONDS = 125
GRID, FILM = "grid.png", "clips.webp"


def write_sheets(folder: Path, pixels: Pixels) -> None:
    """Write `grid.png` with the first 64 images; for clips, strips of the first 8, and `clips.webp` of the first 64."""
    if pixels.ndim == 4:
        write_grid(folder / GRID, pixels)
    else:
        write_strips(folder / GRID, pixels)
        write_film(folder / FILM, pixels)


def write_grid(path: Path, pixels: Pixels) -> None:
    """Write the first 64 images, uint8 [N, C, H, W], as one PNG with 8 per row."""
    _save(path, [_to_pillow(_tile_images(pixels[: SIDE * SIDE]))], format="PNG")


def write_strips(path: Path, clips: Pixels) -> None:
    """Write the first 8 clips, uint8 [N, T, C, H, W], as one PNG with one row per clip and time from left to right.

    A clip of more than 16 frames is shown by 16 evenly spaced frames, including the first and the last.
    """
    shown = clips[:SIDE]
    if (frames := shown.shape[1]) > FRAMES:
        shown = shown[:, np.rint(np.linspace(0, frames - 1, FRAMES)).astype(np.int64)]
    rows = shown.reshape(-1, *shown.shape[2:])
    _save(path, [_to_pillow(_tile_images(rows, columns=shown.shape[1]))], format="PNG")


def write_film(path: Path, clips: Pixels) -> None:
    """Write the first 64 clips, 8 per row, as one looping lossless animated WebP at 8 frames per second."""
    shown = clips[: SIDE * SIDE]
    save_film(path, np.stack([_tile_images(shown[:, frame]) for frame in range(shown.shape[1])]))


def save_film(path: Path, frames: Pixels) -> None:
    """Write one clip, uint8 [T, C, H, W], as a looping lossless animated WebP at 8 frames per second."""
    images = [_to_pillow(frame).convert("RGB") for frame in frames]
    _save(path, images, format="WEBP", lossless=True, duration=FRAME_MILLISECONDS, loop=0)


def read_film(path: Path) -> Pixels:
    """Read the frames of an animated WebP, uint8 [T, 3, H, W]."""
    from PIL import Image, ImageSequence

    with Image.open(path) as film:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def _tile_images(pixels: Pixels, columns: int = SIDE) -> Pixels:
    """Tile images [N, C, H, W] into one [C, rows * (H + 2), columns * (W + 2)], enlarged and with 1-pixel borders."""
    enlarge = max(1, SMALLEST // max(pixels.shape[2:]))
    tiles = [
        np.pad(tile, ((0, 0), (1, 1), (1, 1)), constant_values=64)
        for tile in pixels.repeat(enlarge, 2).repeat(enlarge, 3)
    ]
    while len(tiles) % columns:
        tiles.append(np.zeros_like(tiles[0]))
    rows = [np.concatenate(tiles[i : i + columns], axis=2) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=1)


def _to_pillow(sheet: Pixels) -> Any:
    from PIL import Image

    return Image.fromarray(sheet[0] if sheet.shape[0] == 1 else sheet.transpose(1, 2, 0))


def _save(path: Path, images: list[Any], **how: Any) -> None:
    """Write one image, or several as an animation, atomically."""
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if len(images) > 1 else {}
    images[0].save(buffer, **more, **how)
    write_atomic(path, buffer.getvalue())
