"""Decode the latents of a folder to pictures with an autoencoder. Existing pictures are not decoded again.

DIR/  autoencoder.json     the autoencoder of the pictures; the folder accepts no other one
      images/0000000.png   the picture decoded from latents/0000000.npy; .webp for a clip
      grid.png             the first 64 pictures
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from zigma_bench.data.latents.autoencoder import open_autoencoder
from zigma_bench.errors import UsageError
from zigma_bench.plan.latents import space_of_latents
from zigma_bench.plan.space import LatentSpace
from zigma_bench.records.store import only_writer, write_json
from zigma_bench.sampling.cell_images import to_pixels
from zigma_bench.sampling.draw import image_path, picture_path, read_picture, write_picture
from zigma_bench.sampling.drawable import Drawable
from zigma_bench.sampling.sheets import SIDE, write_sheets
from zigma_bench.suite import Latents

AUTOENCODER = "autoencoder.json"


def decoder_of(source: Drawable, name: str) -> LatentSpace:
    """The latent space of a model, by an autoencoder in FOLDER or at owner/name@COMMIT on the Hub, which is fetched.

    For clips it is the latent space of one frame. Raises UsageError if the model's samples are not latents, and
    NotReady if the autoencoder is missing or its latents have a different shape.
    """
    if source.latents is not None:
        raise UsageError("the cell already names the autoencoder of its latents", where="--autoencoder", do="omit it")
    if source.space != "latents":
        raise UsageError(
            "the samples of the model are not latents", where="--autoencoder",
            got=f"{source.space} {list(source.shape)}", do="omit it, or import the model with --space latents",
        )  # fmt: skip
    folder, at, commit = name.rpartition("@")
    latents = (
        Latents(autoencoder=folder, revision=commit) if at and not Path(name).exists() else Latents(autoencoder=name)
    )
    channels, height, width = source.shape[-3:]
    return space_of_latents(latents, channels=channels, height=height, width=width, where="--autoencoder")


def decode_folder(
    source: Drawable, space: LatentSpace, folder: Path, *, count: int, device: str, on_progress: Callable[[int], None]
) -> Path:
    """Decode the first `count` latents of a folder and return the picture folder. `on_progress(done)` reports
    progress."""
    with only_writer(folder, "this folder"):
        _check_autoencoder(folder, space)
        due = [index for index in range(count) if not picture_path(source, folder, index).exists()]
        autoencoder = open_autoencoder(space, device) if due else None
        for start in range(0, len(due), space.given.batch):
            assert autoencoder is not None, "the autoencoder is open if latents are due"
            indices = due[start : start + space.given.batch]
            latents = np.stack([np.load(image_path(source, folder, index), allow_pickle=False) for index in indices])
            for index, pixels in zip(indices, to_pixels(autoencoder.decode(torch.from_numpy(latents))), strict=True):
                write_picture(picture_path(source, folder, index), pixels)
            on_progress(indices[-1] + 1)
        first = range(min(count, SIDE**2))
        write_sheets(folder, np.stack([read_picture(picture_path(source, folder, index)) for index in first]))
    return picture_path(source, folder, 0).parent


def _check_autoencoder(folder: Path, space: LatentSpace) -> None:
    """Write down the autoencoder of the folder's pictures. UsageError if the folder has pictures of another one."""
    path, facts = folder / AUTOENCODER, space.decoding
    if not path.exists():
        write_json(path, facts)
        return
    try:
        before = json.loads(path.read_text())
    except ValueError:
        before = None
    if before != facts:
        raise UsageError(
            "the folder contains pictures decoded by another autoencoder", where=str(path),
            do="choose another --out, or remove images and autoencoder.json",
        )  # fmt: skip
