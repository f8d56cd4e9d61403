"""Images and clips in the program: uint8, channel first, read by index, and decoded when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import UsageError

Pixels = npt.NDArray[np.uint8]


class Images(Protocol):
    """N images of one size, or N clips or latents.

    `take(indices)` returns uint8 [n, C, H, W], with C 1 or 3 and values 0 to 255; for clips of T frames
    [n, T, C, H, W]; for latents float32.

    Images whose `take` is slow, for example because it decodes files, have a property `decodes` that is true. They must
    pickle, because worker processes read them ahead of the training. Other images are assumed to be in memory.
    """

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels: ...


def to_network_floats(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The input of networks, float32: uint8 pixels scaled to [-1, 1], or float32 latents unchanged."""
    return images if images.dtype == np.float32 else images.astype(np.float32) / 127.5 - 1


Labels = npt.NDArray[np.int64]


def needs_workers(images: Images) -> bool:
    """Whether worker processes should read these images, because reading them is slow."""
    return bool(getattr(images, "decodes", False))


def labels_of(images: Images, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
    """The class of each image, int64 [n] from 0; UsageError for images without a method `labels`."""
    labels = getattr(images, "labels", None)
    if labels is None:
        raise UsageError("these images have no labels", got=type(images).__name__)
    found: Labels = np.asarray(labels(indices), dtype=np.int64)
    return found


def draw_labels(images: Images, indices: Sequence[int] | npt.NDArray[np.integer], seed: int) -> Labels:
    """The label of each image, int64 [n]; a random one from `seed` if the images have a method `drawn_labels`, because
    each has several."""
    drawn = getattr(images, "drawn_labels", None)
    if drawn is None:
        return labels_of(images, indices)
    found: Labels = np.asarray(drawn(indices, seed), dtype=np.int64)
    return found


def has_order(images: Images) -> bool:
    """Whether the images define their own order for each epoch, as a stream does, with a method `epoch`."""
    return hasattr(images, "epoch")


def epoch_of(images: Images, seed: int, number: int) -> Images:
    """The images in the order of epoch `number`: image p of the result is the p-th image of the epoch."""
    assert has_order(images), images
    found: Images = images.epoch(seed, number)  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True)
class Crop:
    """A crop of a training image whose short side is resized to `short_side` pixels.

    `across` and `down` are the horizontal and vertical position as fractions of the possible positions, in [0, 1).
    """

    short_side: int
    across: float
    down: float


def random_crops(count: int, short_side: int, seed: int) -> list[Crop]:
    """`count` random crops, which depend only on `seed`."""
    return [Crop(short_side, *places) for places in np.random.default_rng(seed).random((count, 2)).tolist()]


def take_crops(images: Images, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
    """The images of `take`, each with its crop; UsageError for images without a method `cropped`."""
    crop_images = getattr(images, "cropped", None)
    if crop_images is None:
        raise UsageError(
            "these images can't be cropped at random", where="train.random_crop", got=type(images).__name__,
            do="leave it out",
        )  # fmt: skip
    found: Pixels = crop_images(indices, crops)
    return found


Captions = tuple[str, ...]  # the captions of one image


def captions_of(images: Images, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Captions]:
    """The captions of each image; UsageError for images without a method `captions`."""
    captions = getattr(images, "captions", None)
    if captions is None:
        raise UsageError("these images have no captions", got=type(images).__name__)
    found: list[Captions] = captions(indices)
    return found


@dataclass(frozen=True)
class ArrayImages:
    """Images or clips in memory, uint8 [N, (T,) C, H, W], with optional classes [N] and captions."""

    pixels: Pixels
    classes: Labels | None = None
    texts: Sequence[Captions] | None = None

    def __post_init__(self) -> None:
        assert self.pixels.dtype == np.uint8 and self.pixels.ndim in (4, 5), (self.pixels.dtype, self.pixels.shape)
        assert self.classes is None or self.classes.shape == (len(self.pixels),), self.classes
        assert self.texts is None or len(self.texts) == len(self.pixels), len(self.texts)

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Captions]:
        if self.texts is None:
            raise UsageError("these images have no captions")
        return [self.texts[int(index)] for index in indices]

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        if self.classes is None:
            raise UsageError("these images have no labels")
        return self.classes[np.asarray(indices, dtype=np.int64)]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self.pixels[np.asarray(indices, dtype=np.int64)]


@dataclass(frozen=True)
class Subset:
    """The images `indices` of a larger set, in this order."""

    images: Images
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def decodes(self) -> bool:
        return needs_workers(self.images)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self.images.take(self.indices[np.asarray(indices, dtype=np.int64)])

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        return take_crops(self.images, self.indices[np.asarray(indices, dtype=np.int64)], crops)

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        return labels_of(self.images, self.indices[np.asarray(indices, dtype=np.int64)])

    def drawn_labels(self, indices: Sequence[int] | npt.NDArray[np.integer], seed: int) -> Labels:
        return draw_labels(self.images, self.indices[np.asarray(indices, dtype=np.int64)], seed)

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Captions]:
        return captions_of(self.images, self.indices[np.asarray(indices, dtype=np.int64)])


@dataclass(frozen=True)
class Frames:
    """The frames of clips as single images: those of the first clip, then those of the second, and so on."""

    clips: Images
    frames: int

    def __len__(self) -> int:
        return len(self.clips) * self.frames

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        clips, places = np.divmod(np.asarray(indices, dtype=np.int64), self.frames)
        wanted, rows = np.unique(clips, return_inverse=True)  # decode each clip once for all of its frames
        return self.clips.take(wanted)[rows, places]


@dataclass(frozen=True)
class Splits:
    """The training and the held-out images of a data set: no image of `validation` is in `train`."""

    train: Images
    validation: Images


@dataclass(frozen=True)
class Counts:
    """The numbers of training images, held-out images and classes of a data set; None means unknown."""

    train: int | None
    validation: int | None
    classes: int | None = None

    def __str__(self) -> str:
        """`1,000 training images, 200 held out, 10 classes found`."""
        train, held_out = ("?" if count is None else f"{count:,}" for count in (self.train, self.validation))
        classes = "" if self.classes is None else f", {self.classes:,} classes found"
        return f"{train} training images, {held_out} held out{classes}"


def pixels_digest(images: Images, *, batch: int = 256) -> str:
    """The sha256 of the shape and all pixels in order; equal for equal images from any source."""
    total = hashlib.sha256()
    for start in range(0, len(images), batch):
        pixels = images.take(range(start, min(start + batch, len(images))))
        if start == 0:
            total.update(repr((len(images), *pixels.shape[1:])).encode())
        total.update(np.ascontiguousarray(pixels).tobytes())
    return total.hexdigest()
