"""Select the images, crops and labels of each training step. They depend only on (seed, step)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from zigma_bench.data.images import Crop, Images, Pixels, draw_labels, epoch_of, has_order, random_crops, take_crops
from zigma_bench.suite import Train

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class StepImages:
    """The images of a step on the CPU, with labels int64 [B] if the plan is labelled.

    `pixels`: uint8 [B, C, H, W], float32 latents, or the moments of `LatentPosteriors`.
    """

    pixels: Tensor
    labels: Tensor | None

    def pin_memory(self) -> StepImages:
        """A copy in pinned memory. DataLoader calls this method by name."""
        return StepImages(self.pixels.pin_memory(), None if self.labels is None else self.labels.pin_memory())


@runtime_checkable
class LatentPosteriors(Protocol):
    """Images stored as distributions, such as the latents of an autoencoder. Each step samples from them again.

    `moments` returns the stored moments of images; with `flip`, those of the mirrored image for half of them. `drawn`
    samples float32 [B, C, H, W] from moments on a device. Both are deterministic for one `seed`.
    """

    def moments(self, indices: Indices, *, flip: bool, seed: int) -> np.ndarray[Any, Any]: ...

    def drawn(self, moments: Tensor, *, seed: int, device: torch.device) -> Tensor: ...


def step_seed(seed: int, step: int, stream: int) -> int:
    """The seed of one stream of random numbers in one step."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> 1)


def batch_indices(count: int, batch: int, seed: int, step: int) -> Indices:
    """The image indices of a step. Each epoch is a permutation drawn from (seed, epoch)."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs, places = np.divmod(positions, count)
    indices = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        indices[epochs == epoch] = epoch_order(count, seed, int(epoch))[places[epochs == epoch]]
    return indices


@functools.lru_cache(maxsize=2)  # permuting a million images takes longer than a training step
def epoch_order(count: int, seed: int, epoch: int) -> Indices:
    """The permutation of all images in an epoch."""
    return np.random.default_rng([seed, epoch, 1]).permutation(count)


@dataclass(frozen=True)
class BatchPlan:
    """Selects and loads the images of each training step.

    `flip` applies only to `LatentPosteriors`; pixels are mirrored later. With `random_crop`, each image is cropped at a
    position drawn from (seed, step).
    """

    images: Images
    batch: int
    seed: int
    labelled: bool
    flip: bool = False
    random_crop: int | None = None

    @classmethod
    def of(cls, images: Images, recipe: Train, seed: int, *, labelled: bool) -> BatchPlan:
        """The plan for a training recipe."""
        return cls(images, recipe.batch, seed, labelled, recipe.flip, recipe.random_crop)

    def take(self, step: int) -> StepImages:
        """Load the images of a step."""
        if has_order(self.images):
            return self._in_order(step)
        indices = batch_indices(len(self.images), self.batch, self.seed, step)
        if isinstance(self.images, LatentPosteriors):
            pixels = self.images.moments(indices, flip=self.flip, seed=step_seed(self.seed, step, 5))
        else:
            pixels = _cut(self.images, indices, self._crops(step))
        found = torch.from_numpy(np.ascontiguousarray(pixels))
        if not self.labelled:
            return StepImages(found, None)
        return StepImages(found, torch.from_numpy(draw_labels(self.images, indices, step_seed(self.seed, step, 7))))

    def _in_order(self, step: int) -> StepImages:
        """The next images of a stream, epoch after epoch."""
        pixels, labels, crops = [], [], self._crops(step)
        epochs, places = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), len(self.images))
        for number in np.unique(epochs):
            images, rows = epoch_of(self.images, self.seed, int(number)), np.flatnonzero(epochs == number)
            pixels.append(_cut(images, places[rows], None if crops is None else [crops[row] for row in rows]))
            if self.labelled:
                drawn = step_seed(self.seed, step, 7) + int(number)  # a step may extend into the next epoch
                labels.append(draw_labels(images, places[rows], drawn))
        found = torch.from_numpy(np.concatenate(pixels))
        return StepImages(found, torch.from_numpy(np.concatenate(labels)) if self.labelled else None)

    def _crops(self, step: int) -> list[Crop] | None:
        if self.random_crop is None:
            return None
        return random_crops(self.batch, self.random_crop, step_seed(self.seed, step, 8))

    def example_pixels(self, count: int) -> Pixels:
        """`count` copies of the first training image, for warm-up and measurements."""
        if self.random_crop is None or has_order(self.images):
            return self.images.take([0] * count)
        return take_crops(self.images, [0] * count, random_crops(count, self.random_crop, 0))


def _cut(images: Images, indices: Indices, crops: Sequence[Crop] | None) -> Pixels:
    return images.take(indices) if crops is None else take_crops(images, indices, crops)
