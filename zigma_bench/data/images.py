"""Images and clips as the program hands them around: uint8, channel first, taken by index, decoded when asked for."""

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
    """N images of one size. `take(indices)` gives uint8 [n, C, H, W], C 1 or 3, values 0 to 255; of clips of T frames
    [n, T, C, H, W].

    Latents take the place of images where a network sees them: `take` then gives float32.
    Images whose `take` is work, such as decoding, say so by `decodes` (a property that is true), and must pickle:
    processes then take them ahead of the training. Others are thought to lie in memory.
    """

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels: ...


def floats(taken: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What was taken, as networks see it, float32: pixels from uint8 to [-1, 1], latents as they are."""
    return taken if taken.dtype == np.float32 else taken.astype(np.float32) / 127.5 - 1


Labels = npt.NDArray[np.int64]


def decodes(images: Images) -> bool:
    """Whether taking these images is work that processes should do."""
    return bool(getattr(images, "decodes", False))


def labels_of(images: Images, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
    """The class of each image, int64 [n] from 0, of images that have a method `labels`; UsageError of others."""
    labels = getattr(images, "labels", None)
    if labels is None:
        raise UsageError("these images have no labels", got=type(images).__name__)
    found: Labels = np.asarray(labels(indices), dtype=np.int64)
    return found


def drawn_labels_of(images: Images, indices: Sequence[int] | npt.NDArray[np.integer], seed: int) -> Labels:
    """As `labels_of`; of images with several labels each, which have a method `drawn_labels`, one drawn for each."""
    drawn = getattr(images, "drawn_labels", None)
    if drawn is None:
        return labels_of(images, indices)
    found: Labels = np.asarray(drawn(indices, seed), dtype=np.int64)
    return found


def has_order(images: Images) -> bool:
    """Whether the images come in an order of their own, as those of a stream do: they then have a method `epoch`."""
    return hasattr(images, "epoch")


def epoch_of(images: Images, seed: int, number: int) -> Images:
    """Images with an order of their own as an epoch sees them: image p of the answer is the p-th that it sees."""
    assert has_order(images), images
    found: Images = images.epoch(seed, number)  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True)
class Crop:
    """Where a training image is cut, once its short side is scaled to `short_side` pixels: at `across` and `down` of
    the places that there are, each from 0 to below 1."""

    short_side: int
    across: float
    down: float


def random_crops(count: int, short_side: int, seed: int) -> list[Crop]:
    """So many crops, drawn from `seed` alone."""
    return [Crop(short_side, *places) for places in np.random.default_rng(seed).random((count, 2)).tolist()]


def cropped(images: Images, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
    """As `take`, each image cut as its crop says, of images that have a method `cropped`; UsageError of others."""
    cut = getattr(images, "cropped", None)
    if cut is None:
        raise UsageError(
            "these images can't be cut anew", where="train.random_crop", got=type(images).__name__, do="leave it out"
        )
    found: Pixels = cut(indices, crops)
    return found


Texts = tuple[str, ...]  # of one image: one or several that all describe it


def captions_of(images: Images, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Texts]:
    """The texts of each image, of images that have a method `captions`; UsageError of others."""
    captions = getattr(images, "captions", None)
    if captions is None:
        raise UsageError("these images have no captions", got=type(images).__name__)
    found: list[Texts] = captions(indices)
    return found


@dataclass(frozen=True)
class ArrayImages:
    """Images or clips in memory as one array, uint8 [N, (T,) C, H, W], with the class and texts of each or without."""

    pixels: Pixels
    classes: Labels | None = None
    texts: Sequence[Texts] | None = None

    def __post_init__(self) -> None:
        assert self.pixels.dtype == np.uint8 and self.pixels.ndim in (4, 5), (self.pixels.dtype, self.pixels.shape)
        assert self.classes is None or self.classes.shape == (len(self.pixels),), self.classes
        assert self.texts is None or len(self.texts) == len(self.pixels), len(self.texts)

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Texts]:
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
    """Some images of a larger set, in the order of `indices`."""

    images: Images
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def decodes(self) -> bool:
        return decodes(self.images)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self.images.take(self.indices[np.asarray(indices, dtype=np.int64)])

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        return cropped(self.images, self.indices[np.asarray(indices, dtype=np.int64)], crops)

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        return labels_of(self.images, self.indices[np.asarray(indices, dtype=np.int64)])

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Texts]:
        return captions_of(self.images, self.indices[np.asarray(indices, dtype=np.int64)])


@dataclass(frozen=True)
class Frames:
    """The frames of clips, each as an image of its own: those of the first clip, then those of the second."""

    clips: Images
    frames: int

    def __len__(self) -> int:
        return len(self.clips) * self.frames

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        clips, places = np.divmod(np.asarray(indices, dtype=np.int64), self.frames)
        wanted, rows = np.unique(clips, return_inverse=True)  # a clip is decoded once for all of its frames
        return self.clips.take(wanted)[rows, places]


@dataclass(frozen=True)
class Splits:
    """A data source cut in two: no image of `validation` is in `train`."""

    train: Images
    validation: Images


@dataclass(frozen=True)
class Counts:
    """How many images of a data set are trained on and held out, and how many classes they show; None: unknown."""

    train: int | None
    validation: int | None
    classes: int | None = None

    def __str__(self) -> str:
        """As in `1,000 images to train on, 200 held out, 10 classes found`."""
        train, held = ("?" if count is None else f"{count:,}" for count in (self.train, self.validation))
        classes = "" if self.classes is None else f", {self.classes:,} classes found"
        return f"{train} images to train on, {held} held out{classes}"


def digest(images: Images, *, batch: int = 256) -> str:
    """The sha256 of all pixels in order, with the shape: the same for the same pictures wherever they come from."""
    total = hashlib.sha256()
    for start in range(0, len(images), batch):
        pixels = images.take(range(start, min(start + batch, len(images))))
        if start == 0:
            total.update(repr((len(images), *pixels.shape[1:])).encode())
        total.update(np.ascontiguousarray(pixels).tobytes())
    return total.hexdigest()
