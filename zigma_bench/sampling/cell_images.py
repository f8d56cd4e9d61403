"""Sample the images of a cell in parts. Each part is written to disk as soon as it is finished.

The noise of image i of a cell with seed s is drawn from (s, i) alone, on the CPU. The images are therefore the same for
any batch size or device and after a restart (diffusion/noise.py).
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
from zigma_bench.diffusion.draw import sample_from_noise
from zigma_bench.diffusion.guidance import TextLookup, with_labels
from zigma_bench.diffusion.noise import StepNoise, image_noise
from zigma_bench.errors import CellFailed, Interrupted, NotFinite
from zigma_bench.plan import Cell
from zigma_bench.records.sealed import Parts
from zigma_bench.records.store import SAMPLES, write_atomic
from zigma_bench.system.device import Device

CAPTIONS = "captions.json"
LABEL_SEED = 20240531  # part of the protocol, like the seed of the held-out images

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SampleConditions:
    """The conditioning of the samples: a label int64 [count] for each, and the null label. With `texts`, the labels
    are text numbers."""

    labels: Labels
    dropped: int
    texts: TextLookup | None = None


def to_pixels(images: Tensor) -> Pixels:
    """float in [-1, 1] -> uint8 on the CPU, rounded and clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def sample_images(
    cell: Cell,
    parts: Parts,
    network: Network,
    device: Device,
    on_progress: Callable[[int, str], None],
    stopped: Callable[[], bool],
    finish: Callable[[Tensor], Pixels] = to_pixels,
    conditions: SampleConditions | None = None,
) -> tuple[Pixels, int]:
    """Sample the images of a cell, uint8 [N, (T,) C, H, W], into the folder of `parts`.

    Returns them with the largest number of evaluations of any part. `finish` converts samples to pixels. `conditions`:
    the label or text of each image; by default, a cell with classes gets balanced labels.
    """

    def part(indices: range) -> tuple[Pixels, int]:
        drawn, spent = sample_part(cell, indices, network, device, conditions)
        return finish(drawn), spent

    return sample_in_parts(cell, parts, part, on_progress, stopped)


def sample_in_parts(
    cell: Cell,
    parts: Parts,
    draw_pixels: Callable[[range], tuple[Pixels, int]],
    on_progress: Callable[[int, str], None],
    stopped: Callable[[], bool],
) -> tuple[Pixels, int]:
    """Sample all images of a cell in parts. After a kill, only the unfinished part is sampled again."""
    folder, drawn, most = parts.folder, [], 0
    ranges = part_ranges(cell.sample.count, cell.sample.batch)
    for indices, name in ranges.items():
        if name not in parts:
            if stopped():
                raise Interrupted(f"stopped after {indices.start} images; the same command continues from there")
            pixels, spent = draw_pixels(indices)
            write_npz(folder / name, pixels=pixels, evaluations=np.array(spent))
            parts.add(name)
        on_progress(indices.stop, "")
    for name in ranges.values():
        with np.load(folder / name, allow_pickle=False) as saved:
            drawn.append(saved["pixels"])
            most = max(most, int(saved["evaluations"]))
    pixels = np.concatenate(drawn)
    assert len(pixels) == cell.sample.count, (len(pixels), cell.sample.count)
    save_array(folder / SAMPLES, pixels)
    return pixels, most


def part_ranges(count: int, batch: int) -> dict[range, str]:
    """The image indices of each part, with the name of its file."""
    starts = range(0, count, batch)
    ranges = [range(start, min(start + batch, count)) for start in starts]
    return {indices: f"part-{indices.start:07d}-{indices.stop:07d}.npz" for indices in ranges}


def sample_part(
    cell: Cell, indices: range, network: Network, device: Device, conditions: SampleConditions | None = None
) -> tuple[Tensor, int]:
    """Sample the images of some indices, float [B, *cell.shape] on the device, and count the evaluations.

    The output of `network` is the prediction of the cell's recipe. Raises NotFinite for NaN or infinity.
    """
    shape = cell.shape
    noise = torch.stack([image_noise(cell.seed, index, shape) for index in indices]).to(device.name)
    step_noise = StepNoise(cell.seed, indices, shape, device.name)
    denoiser = network
    if cell.condition is not None:
        classes = cell.condition.size
        conditions = conditions or SampleConditions(balanced_labels(cell.sample.count, classes), classes)
        y = torch.from_numpy(conditions.labels[indices]).to(device.name)
        denoiser = with_labels(network, y, conditions.dropped, cell.sample.guidance, conditions.texts)
    images, spent = sample_from_noise(
        denoiser, noise, objective=cell.objective, sampler=cell.sampler, step_noise=step_noise
    )
    if not bool(images.isfinite().all()):
        raise NotFinite(f"at least one of the samples {indices.start} to {indices.stop - 1} is not finite")
    return images, spent


def assign_rows(count: int, rows: int) -> tuple[Labels, Labels]:
    """The row of every sample, in a fixed random order in which row counts differ by at most one, and its turn.

    The turn counts the earlier samples of the same row. A row with several texts uses its texts in turn.
    """
    order = np.random.RandomState(LABEL_SEED).permutation(np.arange(count)).astype(np.int64)
    return order % rows, order // rows


def balanced_labels(count: int, classes: int) -> Labels:
    """The class of every sample, int64 [count], in a fixed random order in which class counts differ by at most one."""
    labels: Labels = np.random.RandomState(LABEL_SEED).permutation(np.arange(count) % classes).astype(np.int64)
    return labels


def load_samples(folder: Path, *, sha256: str) -> ArrayImages:
    """Load the images of a sample stage. CellFailed if the file has changed since the stage wrote it."""
    data = (folder / SAMPLES).read_bytes()
    if (got := hashlib.sha256(data).hexdigest()) != sha256:
        raise CellFailed(
            "the images have changed since they were sampled", where=str(folder / SAMPLES), expected=f"sha256 {sha256}",
            got=got, do="run the suite again, which samples them again",
        )  # fmt: skip
    return ArrayImages(np.load(io.BytesIO(data), allow_pickle=False))


def save_array(path: Path, array: Array) -> None:
    """Write an array as .npy, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def write_npz(path: Path, **arrays: Array) -> None:
    """Write several arrays as .npz, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())
