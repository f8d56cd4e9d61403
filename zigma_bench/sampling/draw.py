"""Drawing from an imported model or a trained cell into a folder, a file an image; what is there is not drawn again.

DIR/  spec.json            what every image depends on; another order is refused
      images/0000000.png   .webp of a clip, or latents/0000000.npy, float32, where they are no pictures
      labels.json          the label of each image, of a model with classes; prompts.json its prompt
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

from zigma_bench.data.images import Pixels
from zigma_bench.errors import UsageError
from zigma_bench.records.store import SPEC, check_writable, only_writer, write_atomic, write_json
from zigma_bench.sampling.cell_images import save_array, to_pixels
from zigma_bench.sampling.drawable import Drawable
from zigma_bench.sampling.model import Order, draw_batch
from zigma_bench.sampling.sheets import SIDE, read_film, save_film, write_sheets

UNDECODED = "these are latents: --autoencoder FOLDER, the one that the model was trained with, makes pictures of them"


def draw_to_folder(order: Order, folder: Path, *, device: str, backend: str, tell: Callable[[int], None]) -> Path:
    """Draw the order's images into a folder and give the folder of the files; `tell` is given how many are there.

    Raises UsageError for a folder of another order, NotFinite for a sample that is not finite.
    """
    check_writable(folder)
    with only_writer(folder):
        _check_folder(order.facts(), folder)
        due = list(_due(order, folder))
        opened = order.source.open(order.prompts, device, backend) if due else None
        write_json(folder / SPEC, order.facts())  # not before what is drawn from is there
        for indices in due:
            assert opened is not None
            network, texts = opened
            for index, drawn in zip(indices, draw_batch(order, network, indices, device, texts), strict=True):
                _write(place(order.source, folder, index), drawn, order.source)
            tell(indices[-1] + 1)
        count = order.recipe.sample.count
        there = max(
            count, len(list(place(order.source, folder, 0).parent.iterdir()))
        )  # an earlier call may have drawn more
        labels = order.labels_of(range(there))
        if order.prompts is not None and labels is not None:
            write_json(folder / "prompts.json", [order.prompts[number] for number in labels])
        elif labels is not None:
            write_json(folder / "labels.json", labels)
        if order.source.image:
            first = range(min(count, SIDE**2))
            write_sheets(folder, np.stack([read_picture(place(order.source, folder, i)) for i in first]))
    return place(order.source, folder, 0).parent


def place(source: Drawable, folder: Path, index: int) -> Path:
    """Where an image lies."""
    return picture_place(source, folder, index) if source.image else folder / f"latents/{index:07d}.npy"


def picture_place(source: Drawable, folder: Path, index: int) -> Path:
    """Where a picture or a clip lies, drawn as one or decoded."""
    return folder / f"images/{index:07d}.{'webp' if source.clip else 'png'}"


def _due(order: Order, folder: Path) -> Iterator[list[int]]:
    """The images that are not there, a batch at a time; whole batches for dopri5, whose images depend on theirs."""
    sample = order.recipe.sample
    for start in range(0, sample.count, sample.batch):
        batch = list(range(start, min(start + sample.batch, sample.count)))
        absent = [index for index in batch if not place(order.source, folder, index).exists()]
        if absent:
            yield batch if sample.solver == "dopri5" else absent


def _check_folder(facts: dict[str, Any], folder: Path) -> None:
    """Refuse a folder that holds something else than what these facts say."""
    path = folder / SPEC
    if not path.exists():
        if foreign := sorted(item.name for item in folder.iterdir() if item.name not in (".lock", ".owner")):
            raise UsageError("the folder is in use", where=str(folder), got=foreign[0], do="give another --out")
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


def _write(path: Path, drawn: Tensor, source: Drawable) -> None:
    if not source.image:
        save_array(path, drawn.numpy())
        return
    write_picture(path, to_pixels(drawn))


def write_picture(path: Path, pixels: Pixels) -> None:
    """uint8 [C, H, W] as PNG, a clip [T, C, H, W] as an animated WebP."""
    if pixels.ndim == 4:
        save_film(path, pixels)
        return
    shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def read_picture(path: Path) -> Pixels:
    """A PNG as uint8 [C, H, W], an animated WebP as uint8 [T, 3, H, W]."""
    if path.suffix == ".webp":
        return read_film(path)
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
