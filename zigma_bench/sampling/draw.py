"""Sample from an imported model or a trained cell into a folder, one file per image. Existing files stay.

DIR/  spec.json            everything that an image depends on; the folder accepts no different request
      images/0000000.png   .webp for a clip; latents/0000000.npy, float32, if the samples are not pictures
      labels.json          the label of each image of a model with classes; prompts.json for prompts
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
from zigma_bench.sampling.model import SamplingRequest, sample_batch
from zigma_bench.sampling.sheets import SIDE, read_film, save_film, write_sheets

UNDECODED = "these are latents: --autoencoder FOLDER decodes them with the autoencoder that the model was trained with"


def draw_to_folder(
    request: SamplingRequest, folder: Path, *, device: str, backend: str, on_progress: Callable[[int], None]
) -> Path:
    """Sample the requested images into a folder and return the folder of the files. `on_progress(done)` reports
    progress.

    Raises UsageError if the folder contains samples of a different request, and NotFinite for a sample that is not
    finite.
    """
    check_writable(folder)
    with only_writer(folder):
        _check_folder(request.facts(), folder)
        due = list(_due_batches(request, folder))
        opened = request.source.open(request.prompts, device, backend) if due else None
        write_json(folder / SPEC, request.facts())  # only after the model could be opened
        for indices in due:
            assert opened is not None
            network, texts = opened
            for index, drawn in zip(indices, sample_batch(request, network, indices, device, texts), strict=True):
                _write(image_path(request.source, folder, index), drawn, request.source)
            on_progress(indices[-1] + 1)
        count = request.recipe.sample.count
        # an earlier call may have written more images
        total = max(count, len(list(image_path(request.source, folder, 0).parent.iterdir())))
        labels = request.labels_of(range(total))
        if request.prompts is not None and labels is not None:
            write_json(folder / "prompts.json", [request.prompts[number] for number in labels])
        elif labels is not None:
            write_json(folder / "labels.json", labels)
        if request.source.image:
            first = range(min(count, SIDE**2))
            write_sheets(folder, np.stack([read_picture(image_path(request.source, folder, i)) for i in first]))
    return image_path(request.source, folder, 0).parent


def image_path(source: Drawable, folder: Path, index: int) -> Path:
    """The file of a sample."""
    return picture_path(source, folder, index) if source.image else folder / f"latents/{index:07d}.npy"


def picture_path(source: Drawable, folder: Path, index: int) -> Path:
    """The file of a picture or clip, sampled as such or decoded from latents."""
    return folder / f"images/{index:07d}.{'webp' if source.clip else 'png'}"


def _due_batches(request: SamplingRequest, folder: Path) -> Iterator[list[int]]:
    """The indices of missing images, in batches; whole batches for dopri5, whose images depend on their batch."""
    sample = request.recipe.sample
    for start in range(0, sample.count, sample.batch):
        batch = list(range(start, min(start + sample.batch, sample.count)))
        absent = [index for index in batch if not image_path(request.source, folder, index).exists()]
        if absent:
            yield batch if sample.solver == "dopri5" else absent


def _check_folder(facts: dict[str, Any], folder: Path) -> None:
    """UsageError if the folder contains other files, or samples of a different request."""
    path = folder / SPEC
    if not path.exists():
        if foreign := sorted(item.name for item in folder.iterdir() if item.name not in (".lock", ".owner")):
            raise UsageError(
                "the folder contains other files", where=str(folder), got=foreign[0], do="choose another --out"
            )
        return
    try:
        before: Any = json.loads(path.read_text())
    except ValueError:
        before = None
    if before != facts:
        unlike = [key for key in facts if not isinstance(before, dict) or before.get(key) != facts[key]]
        raise UsageError(
            f"the folder contains samples of another request; they differ in {' and '.join(unlike)}",
            where=str(path),
            do="choose another --out, or use the options of the earlier samples",
        )


def _write(path: Path, drawn: Tensor, source: Drawable) -> None:
    if not source.image:
        save_array(path, drawn.numpy())
        return
    write_picture(path, to_pixels(drawn))


def write_picture(path: Path, pixels: Pixels) -> None:
    """Write uint8 [C, H, W] as PNG, or a clip [T, C, H, W] as animated WebP."""
    if pixels.ndim == 4:
        save_film(path, pixels)
        return
    shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def read_picture(path: Path) -> Pixels:
    """Read a PNG as uint8 [C, H, W], or an animated WebP as uint8 [T, 3, H, W]."""
    if path.suffix == ".webp":
        return read_film(path)
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
