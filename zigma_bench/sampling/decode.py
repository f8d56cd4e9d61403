"""The latents of a folder as pictures, through an autoencoder; a picture that is there already is not decoded again.

DIR/  autoencoder.json     which autoencoder the pictures are of; another one is refused
      images/0000000.png   the picture of latents/0000000.npy, or .webp, the clip
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
from zigma_bench.sampling.draw import picture_place, place, read_picture, write_picture
from zigma_bench.sampling.drawable import Drawable
from zigma_bench.sampling.sheets import SIDE, write_sheets
from zigma_bench.suite import Latents

AUTOENCODER = "autoencoder.json"


def decoder_of(source: Drawable, name: str) -> LatentSpace:
    """The space of a model's latents through FOLDER, or through owner/name@COMMIT of the Hub, which is fetched.

    Of clips it is that of a frame. Raises UsageError for a model whose samples are no latents, NotReady for an
    autoencoder that is not there or has other latents.
    """
    if source.latents is not None:
        raise UsageError("the cell knows the autoencoder of its latents", where="--autoencoder", do="leave it out")
    if source.space != "latents":
        raise UsageError(
            "the model draws no latents", where="--autoencoder", got=f"{source.space} {list(source.shape)}",
            do="leave it out, or import the model with --space latents",
        )  # fmt: skip
    folder, at, commit = name.rpartition("@")
    given = (
        Latents(autoencoder=folder, revision=commit) if at and not Path(name).exists() else Latents(autoencoder=name)
    )
    channels, height, width = source.shape[-3:]
    return space_of_latents(given, channels=channels, height=height, width=width, where="--autoencoder")


def decode_folder(
    source: Drawable, space: LatentSpace, folder: Path, *, count: int, device: str, tell: Callable[[int], None]
) -> Path:
    """Decode the first `count` latents of a folder and give the folder of the pictures; `tell` hears how many are."""
    with only_writer(folder, "this folder"):
        _claim(folder, space)
        due = [index for index in range(count) if not picture_place(source, folder, index).exists()]
        autoencoder = open_autoencoder(space, device) if due else None
        for start in range(0, len(due), space.given.batch):
            assert autoencoder is not None, "there is something to decode"
            indices = due[start : start + space.given.batch]
            latents = np.stack([np.load(place(source, folder, index), allow_pickle=False) for index in indices])
            for index, pixels in zip(indices, to_pixels(autoencoder.decode(torch.from_numpy(latents))), strict=True):
                write_picture(picture_place(source, folder, index), pixels)
            tell(indices[-1] + 1)
        first = range(min(count, SIDE**2))
        write_sheets(folder, np.stack([read_picture(picture_place(source, folder, index)) for index in first]))
    return picture_place(source, folder, 0).parent


def _claim(folder: Path, space: LatentSpace) -> None:
    """Write which autoencoder decodes the folder's latents, or refuse another one than has begun."""
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
            "the folder's pictures are those of another autoencoder", where=str(path),
            do="give another --out, or remove images and autoencoder.json",
        )  # fmt: skip
