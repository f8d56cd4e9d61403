"""Drawing the images of a cell: one noise an image, a part at a time, each part kept as soon as it is drawn.

All noise of image i of a cell with seed s is drawn from (s, i) alone, on the CPU: the same set for any batch size,
device or restart (diffusion/noise.py).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zigma_bench.data.images import ArrayImages, Labels, Pixels
from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.draw import draw
from zigma_bench.diffusion.guidance import Texts, under_labels
from zigma_bench.diffusion.noise import StepNoise, image_noise
from zigma_bench.errors import CellFailed, Interrupted, NotFinite
from zigma_bench.plan import Cell
from zigma_bench.records.sealed import Parts
from zigma_bench.records.store import SAMPLES, write_atomic
from zigma_bench.system.device import Device

CAPTIONS = "captions.json"
LABEL_SEED = 20240531  # part of the protocol, as that of the held-out images

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Under:
    """What images are drawn under: a label int64 [count] for each, and the one that stands for none; with `texts` they
    are numbers of texts."""

    labels: Labels
    dropped: int
    texts: Texts | None = None


def to_pixels(images: Tensor) -> Pixels:
    """float in [-1, 1] -> uint8, rounded and clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def draw_images(
    cell: Cell,
    parts: Parts,
    network: Network,
    device: Device,
    tell: Callable[[int, str], None],
    stopped: Callable[[], bool],
    finish: Callable[[Tensor], Pixels] = to_pixels,
    under: Under | None = None,
) -> tuple[Pixels, int]:
    """The cell's images, uint8 [N, (T,) C, H, W], written to the folder of `parts`, and the most evaluations of a part.

    `finish` makes pixels of what the network draws. `under`: the label or text of each image; without it those of a
    cell with classes are drawn in balance.
    """

    def part(indices: range) -> tuple[Pixels, int]:
        drawn, spent = draw_part(cell, indices, network, device, under)
        return finish(drawn), spent

    return in_parts(cell, parts, part, tell, stopped)


def in_parts(
    cell: Cell,
    parts: Parts,
    draw_pixels: Callable[[range], tuple[Pixels, int]],
    tell: Callable[[int, str], None],
    stopped: Callable[[], bool],
) -> tuple[Pixels, int]:
    """The pixels of all of a cell's images, drawn a part at a time; a kill costs the part that is being drawn."""
    folder, drawn, most = parts.folder, [], 0
    ranges = part_ranges(cell.sample.count, cell.sample.batch)
    for indices, name in ranges.items():
        if name not in parts:
            if stopped():
                raise Interrupted(f"stopped after {indices.start} images; the same command goes on from there")
            pixels, spent = draw_pixels(indices)
            write_npz(folder / name, pixels=pixels, evaluations=np.array(spent))
            parts.add(name)
        tell(indices.stop, "")
    for name in ranges.values():
        with np.load(folder / name, allow_pickle=False) as saved:
            drawn.append(saved["pixels"])
            most = max(most, int(saved["evaluations"]))
    pixels = np.concatenate(drawn)
    assert len(pixels) == cell.sample.count, (len(pixels), cell.sample.count)
    save_array(folder / SAMPLES, pixels)
    return pixels, most


def part_ranges(count: int, batch: int) -> dict[range, str]:
    """The indices of each part of a sampling, with the name of its file."""
    starts = range(0, count, batch)
    ranges = [range(start, min(start + batch, count)) for start in starts]
    return {indices: f"part-{indices.start:07d}-{indices.stop:07d}.npz" for indices in ranges}


def draw_part(
    cell: Cell, indices: range, network: Network, device: Device, under: Under | None = None
) -> tuple[Tensor, int]:
    """What the network draws of some indices, float [B, *cell.shape] on the device, and the evaluations that it took.

    `network` says what the recipe trained it to.
    """
    shape = cell.shape
    noise = torch.stack([image_noise(cell.seed, index, shape) for index in indices]).to(device.name)
    stirred = StepNoise(cell.seed, indices, shape, device.name)
    said = network
    if cell.condition is not None:
        under = under or Under(sample_labels(cell.sample.count, cell.condition.size), cell.condition.size)
        y = torch.from_numpy(under.labels[indices]).to(device.name)
        said = under_labels(network, y, under.dropped, cell.sample.guidance, under.texts)
    images, spent = draw(said, noise, objective=cell.objective, sampler=cell.sampler, step_noise=stirred)
    if not bool(images.isfinite().all()):
        raise NotFinite(f"a sample among {indices.start} to {indices.stop - 1} is not finite")
    return images, spent


def sample_rows(count: int, rows: int) -> tuple[Labels, Labels]:
    """The row of every image of a cell among `rows`, each as often or once more, in one fixed order; and its turn.

    The turn is how often the row was taken before, so that a row of several texts gives one after another.
    """
    order = np.random.RandomState(LABEL_SEED).permutation(np.arange(count)).astype(np.int64)
    return order % rows, order // rows


def sample_labels(count: int, classes: int) -> Labels:
    """The class of every image of a cell, int64 [count]: each class as often, or once more, in one fixed order."""
    labels: Labels = np.random.RandomState(LABEL_SEED).permutation(np.arange(count) % classes).astype(np.int64)
    return labels


def load_images(folder: Path, *, sha256: str) -> ArrayImages:
    """The images that a sample stage has left; CellFailed where the file is not the one that it wrote."""
    data = (folder / SAMPLES).read_bytes()
    if (got := hashlib.sha256(data).hexdigest()) != sha256:
        raise CellFailed(
            "the images are not those that were drawn", where=str(folder / SAMPLES), expected=f"sha256 {sha256}",
            got=got, do="run the suite again: they are drawn again",
        )  # fmt: skip
    return ArrayImages(np.load(io.BytesIO(data), allow_pickle=False))


def save_array(path: Path, array: Array) -> None:
    """An array as .npy, whole or absent."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def write_npz(path: Path, **arrays: Array) -> None:
    """Several arrays as .npz, whole or absent."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())
