"""Latents of images, read from a cache that is encoded once.

    CACHE/train/, CACHE/validation/     stores of data/reading/arrays.py
        moments [2c, h, w]              the means of each image's posterior, then its log-variances, not scaled;
                                        for a clip [T, 2c, h, w], with the frames encoded separately
        mirrored [2c, h, w]             those of the mirrored image, if training flips images
    CACHE/reconstructed-SPLIT-POSTERIOR/  only if the suite's reference is reconstructions
        pixels [C, H, W]                uint8, each image decoded from its fixed sample

The input of networks is (z - shift) * scale. Training samples z from the posterior, or uses its mean. The validation
loss, which needs the same latents each time, uses one fixed sample per image, which depends only on its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import Images, Labels, Pixels, Splits, Subset, draw_labels, labels_of
from zigma_bench.data.reading.arrays import ArrayField, ArrayLayout, ArrayStore, open_store
from zigma_bench.plan.space import LatentSpace

if TYPE_CHECKING:
    import torch

RECONSTRUCTED = "reconstructed-"
POSTERIOR_SEED = 20260  # seed of the fixed samples; part of the protocol
DO = "run `zigma-bench data encode SUITE`, which writes what is missing or broken"

SPLITS = ("train", "validation")
Indices = Sequence[int] | npt.NDArray[np.integer]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LatentImages:
    """The latents of `images`: row i of the store belongs to image i."""

    images: Images
    store: ArrayStore
    space: LatentSpace

    def __len__(self) -> int:
        return len(self.images)

    def labels(self, indices: Indices) -> Labels:
        return labels_of(self.images, indices)

    def drawn_labels(self, indices: Indices, seed: int) -> Labels:
        return draw_labels(self.images, indices, seed)

    def take(self, indices: Indices) -> Array:
        """The scaled latents, float32 [n, (T,) c, h, w], always the same for an image."""
        mean, logvar = np.split(self.store.take("moments", indices).astype(np.float32), 2, axis=-3)
        if self.space.given.posterior == "sample":
            normal = [fixed_normal(int(index), mean.shape[1:]) for index in indices]
            mean = mean + np.exp(0.5 * logvar) * np.stack(normal) if normal else mean
        scale, shift = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.space.scale, self.space.shift))
        return (mean - shift) * scale

    def draw(self, indices: Indices, *, flip: bool, seed: int, device: torch.device) -> torch.Tensor:
        """The scaled latents of a training step, float32 [n, c, h, w], sampled with `seed`; `flip` mirrors half of
        them at random."""
        import torch

        return self.drawn(torch.from_numpy(self.moments(indices, flip=flip, seed=seed)), seed=seed, device=device)

    def moments(self, indices: Indices, *, flip: bool, seed: int) -> Array:
        """The stored means and log-variances, [n, 2c, h, w]; with `flip`, half of them, at random, of the mirrored
        image."""
        chosen = np.random.default_rng(seed).random(len(indices)) < 0.5 if flip else np.zeros(len(indices), dtype=bool)
        moments = self.store.take("moments", indices)
        if chosen.any():
            moments[chosen] = self.store.take("mirrored", np.asarray(indices)[chosen])
        return moments

    def drawn(self, moments: torch.Tensor, *, seed: int, device: torch.device) -> torch.Tensor:
        """Scaled latents sampled from the posteriors of these moments, on a device, float32 [n, (T,) c, h, w]."""
        import torch

        from zigma_bench.data.latents.autoencoder import latent_scaling

        mean, logvar = moments.to(device, non_blocking=True).float().chunk(2, dim=-3)
        if self.space.given.posterior == "sample":
            draw = torch.Generator(device).manual_seed(seed)
            normal = torch.randn(mean.shape, generator=draw, device=device)
            mean = mean + (0.5 * logvar).exp() * normal
        scale, shift = latent_scaling(self.space, device)
        return (mean - shift) * scale


@dataclass(frozen=True)
class LatentSubset(Subset):
    """Some of the latents of a data set, in a given order. Training samples from their posteriors too."""

    images: LatentImages

    def moments(self, indices: Indices, *, flip: bool, seed: int) -> Array:
        return self.images.moments(self.indices[np.asarray(indices, dtype=np.int64)], flip=flip, seed=seed)

    def drawn(self, moments: torch.Tensor, *, seed: int, device: torch.device) -> torch.Tensor:
        return self.images.drawn(moments, seed=seed, device=device)


def select_images(images: Images, indices: npt.NDArray[np.int64]) -> Subset:
    """The images or latents `indices`, in this order."""
    return LatentSubset(images, indices) if isinstance(images, LatentImages) else Subset(images, indices)


def fixed_normal(index: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The standard normal noise of an image's fixed sample."""
    draw = np.random.Generator(np.random.Philox(key=[POSTERIOR_SEED, index]))
    return draw.standard_normal(shape, dtype=np.float32)


def latents_of(splits: Splits, space: LatentSpace, cache: Path) -> Splits:
    """The splits of a data set as latents; NotReady if the cache is incomplete, or contains other latents."""

    def opened(split: str) -> LatentImages:
        images: Images = getattr(splits, split)
        layout = layout_of(space, split, len(images))
        return LatentImages(images, open_store(folder_of(space, cache) / split, layout, do=DO), space)

    return Splits(opened("train"), opened("validation"))


@dataclass(frozen=True)
class StoredImages:
    """Images in a store, uint8 [N, C, H, W]."""

    store: ArrayStore

    def __len__(self) -> int:
        return len(self.store)

    def take(self, indices: Indices) -> Pixels:
        return self.store.take("pixels", indices)


def reconstructions_of(images: Images, space: LatentSpace, cache: Path) -> StoredImages:
    """The reconstructions of the images of the split `space.reconstructed`; NotReady if the cache is incomplete."""
    (name,) = stores_of(space)[len(SPLITS) :]
    return StoredImages(open_store(folder_of(space, cache) / name, layout_of(space, name, len(images)), do=DO))


def stores_of(space: LatentSpace) -> tuple[str, ...]:
    """The names of the stores of a cache: the latents of both splits, then the reconstructions, if any."""
    if space.reconstructed is None:
        return SPLITS
    return (*SPLITS, f"{RECONSTRUCTED}{space.reconstructed}-{space.given.posterior}")


def folder_of(space: LatentSpace, cache: Path) -> Path:
    """The folder of a cache of latents: the suite's `cache`, or by default one below the results."""
    folder = space.given.cache
    return cache / "latents" / space.folder_name if folder is None else Path(folder).expanduser()


def layout_of(space: LatentSpace, name: str, rows: int) -> ArrayLayout:
    """The layout of one of the stores of a cache."""
    frames = () if space.frames == 1 else (space.frames,)
    if name.startswith(RECONSTRUCTED):
        pixels = {"pixels": ArrayField("uint8", (*frames, space.channels, space.height, space.width))}
        return ArrayLayout.of({**space.facts, "store": name}, pixels, rows)
    c, h, w = space.shape
    field = ArrayField(space.given.dtype, (*frames, 2 * c, h, w))
    names = ("moments", "mirrored") if space.mirrored and name == "train" else ("moments",)
    return ArrayLayout.of({**space.cached, "store": name}, dict.fromkeys(names, field), rows)
