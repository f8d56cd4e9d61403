"""Drawing from an imported model into a folder, a file an image; what is there already is not drawn again.

DIR/  spec.json            what every image depends on; another order is refused
      images/0000000.png   or latents/0000000.npy, float32, where they are no pictures
      labels.json          the label of each image, of a model with classes
      grid.png             the first 64 pictures
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from zigma_bench.errors import UsageError
from zigma_bench.images import Pixels
from zigma_bench.models.official import open_model
from zigma_bench.models.official.card import Card
from zigma_bench.sampling import save_array, to_pixels
from zigma_bench.sheets import GRID, SIDE, write_grid
from zigma_bench.standalone.model import Order, draw_batch
from zigma_bench.store import SPEC, check_writable, only_writer, write_atomic, write_json

UNDECODED = "these are latents: --autoencoder FOLDER, the one that the model was trained with, makes pictures of them"


def draw_to_folder(
    order: Order, model: Path, folder: Path, *, device: str, backend: str, tell: Callable[[int], None]
) -> Path:
    """Draw the order's images into a folder and give the folder of the files; `tell` is given how many are there.

    Raises UsageError for a folder of another order, NotFinite for a sample that is not finite.
    """
    check_writable(folder)
    with only_writer(folder):
        _claim(order, folder)
        network = None
        for indices in _due(order, folder):
            network = network or open_model(model, backend=backend, device=device).requires_grad_(False)
            for index, drawn in zip(indices, draw_batch(order, network, indices, device), strict=True):
                _write(place(order.card, folder, index), drawn, order.card)
            tell(indices[-1] + 1)
        count = order.recipe.sample.count
        there = max(
            count, len(list(place(order.card, folder, 0).parent.iterdir()))
        )  # an earlier call may have drawn more
        if (labels := order.labels_of(range(there))) is not None:
            write_json(folder / "labels.json", labels)
        if order.card.image:
            first = range(min(count, SIDE**2))
            write_grid(folder / GRID, np.stack([read_picture(place(order.card, folder, i)) for i in first]))
    return place(order.card, folder, 0).parent


def place(card: Card, folder: Path, index: int) -> Path:
    """Where an image lies."""
    return picture_place(folder, index) if card.image else folder / f"latents/{index:07d}.npy"


def picture_place(folder: Path, index: int) -> Path:
    """Where a picture lies, drawn as one or decoded."""
    return folder / f"images/{index:07d}.png"


def _due(order: Order, folder: Path) -> Iterator[list[int]]:
    """The images that are not there, a batch at a time; whole batches for dopri5, whose images depend on theirs."""
    sample = order.recipe.sample
    for start in range(0, sample.count, sample.batch):
        batch = list(range(start, min(start + sample.batch, sample.count)))
        absent = [index for index in batch if not place(order.card, folder, index).exists()]
        if absent:
            yield batch if sample.solver == "dopri5" else absent


def _claim(order: Order, folder: Path) -> None:
    """Write what the folder holds, or refuse a folder that holds something else."""
    path, facts = folder / SPEC, order.facts()
    if not path.exists():
        if foreign := sorted(item.name for item in folder.iterdir() if item.name not in (".lock", ".owner")):
            raise UsageError("the folder is in use", where=str(folder), got=foreign[0], do="give another --out")
        write_json(path, facts)
        return
    try:
        before: Any = json.loads(path.read_text())
    except ValueError:
        before = None
    if before != facts:
        unlike = [key for key in facts if not isinstance(before, dict) or before.get(key) != facts[key]]
        raise UsageError(
            f"the folder holds what another order drew: another {' and '.join(unlike)}",
            where=str(path),
            do="give another --out, or the options that it was drawn with",
        )


def _write(path: Path, drawn: Tensor, card: Card) -> None:
    if not card.image:
        save_array(path, drawn.numpy())
        return
    write_picture(path, to_pixels(drawn))


def write_picture(path: Path, pixels: Pixels) -> None:
    """uint8 [C, H, W] as PNG."""
    shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def read_picture(path: Path) -> Pixels:
    """A PNG as uint8 [C, H, W]."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
