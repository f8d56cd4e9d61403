"""What each step of a training takes: which images, in which order, cut where, and their labels.

It depends on (seed, step) alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from zigma_bench.data.images import Crop, Images, Pixels, cropped, drawn_labels_of, epoch_of, has_order, random_crops
from zigma_bench.suite import Train

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Taken:
    """The images of a step, on the CPU: uint8 [B, C, H, W], what `Posteriors` hold of them, or latents; and their
    labels int64 [B] where they are asked for."""

    pixels: Tensor
    labels: Tensor | None

    def pin_memory(self) -> Taken:
        """The same in memory that a card copies from by itself; the name is DataLoader's."""
        return Taken(self.pixels.pin_memory(), None if self.labels is None else self.labels.pin_memory())


@runtime_checkable
class Posteriors(Protocol):
    """Images that are kept as distributions, as an autoencoder's latents are: each step draws from them anew.

    `moments` gives what is kept of images, with `flip` of the mirror images of half of them; `drawn` makes float32
    [B, C, H, W] on a device of it. Both depend on `seed` alone.
    """

    def moments(self, indices: Indices, *, flip: bool, seed: int) -> np.ndarray[Any, Any]: ...

    def drawn(self, moments: Tensor, *, seed: int, device: torch.device) -> Tensor: ...


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed of one stream of random numbers in one step."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> 1)


def batch_indices(count: int, batch: int, seed: int, step: int) -> Indices:
    """The images of a step: epoch after epoch, each in an order drawn from (seed, epoch)."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs, places = np.divmod(positions, count)
    indices = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        indices[epochs == epoch] = epoch_order(count, seed, int(epoch))[places[epochs == epoch]]
    return indices


@functools.lru_cache(maxsize=2)  # a permutation of a million takes longer than a step may
def epoch_order(count: int, seed: int, epoch: int) -> Indices:
    """All images once, in the order of an epoch."""
    return np.random.default_rng([seed, epoch, 1]).permutation(count)


@dataclass(frozen=True)
class Job:
    """What is taken for the steps of a training; `flip` counts for `Posteriors` alone, pixels are mirrored later.

    With `random_crop` each image is cut at a place drawn from (seed, step).
    """

    images: Images
    batch: int
    seed: int
    labelled: bool
    flip: bool = False
    random_crop: int | None = None

    @classmethod
    def of(cls, images: Images, recipe: Train, seed: int, *, labelled: bool) -> Job:
        """What a recipe takes."""
        return cls(images, recipe.batch, seed, labelled, recipe.flip, recipe.random_crop)

    def take(self, step: int) -> Taken:
        """The images of a step, taken now."""
        if has_order(self.images):
            return self._in_order(step)
        indices = batch_indices(len(self.images), self.batch, self.seed, step)
        if isinstance(self.images, Posteriors):
            pixels = self.images.moments(indices, flip=self.flip, seed=step_seed(self.seed, step, 5))
        else:
            pixels = _cut(self.images, indices, self._crops(step))
        found = torch.from_numpy(np.ascontiguousarray(pixels))
        if not self.labelled:
            return Taken(found, None)
        return Taken(found, torch.from_numpy(drawn_labels_of(self.images, indices, step_seed(self.seed, step, 7))))

    def _in_order(self, step: int) -> Taken:
        """The next images of a stream, epoch after epoch."""
        pixels, labels, crops = [], [], self._crops(step)
        epochs, places = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), len(self.images))
        for number in np.unique(epochs):
            images, rows = epoch_of(self.images, self.seed, int(number)), np.flatnonzero(epochs == number)
            pixels.append(_cut(images, places[rows], None if crops is None else [crops[row] for row in rows]))
            if self.labelled:
                drawn = step_seed(self.seed, step, 7) + int(number)  # a step may reach into the next epoch
                labels.append(drawn_labels_of(images, places[rows], drawn))
        found = torch.from_numpy(np.concatenate(pixels))
        return Taken(found, torch.from_numpy(np.concatenate(labels)) if self.labelled else None)

    def _crops(self, step: int) -> list[Crop] | None:
        if self.random_crop is None:
            return None
        return random_crops(self.batch, self.random_crop, step_seed(self.seed, step, 8))

    def like(self, count: int) -> Pixels:
        """So many images of a training, to measure and to warm up with: always its first."""
        if self.random_crop is None or has_order(self.images):
            return self.images.take([0] * count)
        return cropped(self.images, [0] * count, random_crops(count, self.random_crop, 0))


def _cut(images: Images, indices: Indices, crops: Sequence[Crop] | None) -> Pixels:
    return images.take(indices) if crops is None else cropped(images, indices, crops)
