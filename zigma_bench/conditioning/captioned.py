"""Images with numbered captions: equal captions have the same number in training and held-out images.

The captions of a stream are numbered before training: one pass reads the captions without the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import (
    Captions,
    Crop,
    Images,
    Labels,
    Pixels,
    Splits,
    captions_of,
    epoch_of,
    has_order,
    needs_workers,
    take_crops,
)
from zigma_bench.errors import NotReady

CHUNK = 10_000  # images whose captions are read at a time

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CaptionedImages:
    """Images whose labels are the numbers of their captions: image i has `numbers[starts[i] : starts[i + 1]]`.

    `labels` returns each image's first caption, and `drawn_labels` a random one from a seed.
    """

    images: Images
    numbers: Ids
    starts: Ids

    def __len__(self) -> int:
        return len(self.images)

    @property
    def decodes(self) -> bool:
        return needs_workers(self.images)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self.images.take(indices)

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        return take_crops(self.images, indices, crops)

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Captions]:
        return captions_of(self.images, indices)

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        return self.turn_labels(indices, np.zeros(len(indices), dtype=np.int64))

    def drawn_labels(self, indices: Sequence[int] | npt.NDArray[np.integer], seed: int) -> Labels:
        counts = self._counts(indices)
        return self.turn_labels(indices, np.random.default_rng(seed).integers(0, counts))

    def turn_labels(self, indices: Sequence[int] | npt.NDArray[np.integer], turns: Ids) -> Labels:
        """The caption number `turns % count` of each image, where count is its number of captions."""
        wanted = np.asarray(indices, dtype=np.int64)
        found: Labels = self.numbers[self.starts[wanted] + turns % self._counts(indices)]
        return found

    def _counts(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Ids:
        wanted = np.asarray(indices, dtype=np.int64)
        return self.starts[wanted + 1] - self.starts[wanted]


@dataclass(frozen=True)
class CaptionedStream(CaptionedImages):
    """Images of a stream; `known` maps a caption to its number, for the epochs."""

    known: Mapping[str, int]

    def epoch(self, seed: int, number: int) -> CaptionedEpoch:
        """The images in the order of epoch `number`."""
        return CaptionedEpoch(epoch_of(self.images, seed, number), self.known)


@dataclass(frozen=True)
class CaptionedEpoch:
    """The images of one epoch of a stream; `known` maps a caption to its number."""

    images: Images
    known: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self.images.take(indices)

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        return take_crops(self.images, indices, crops)

    def drawn_labels(self, indices: Sequence[int] | npt.NDArray[np.integer], seed: int) -> Labels:
        texts = captions_of(self.images, indices)
        turns = np.random.default_rng(seed).integers(0, [len(captions) for captions in texts])
        chosen = (captions[turn] for captions, turn in zip(texts, turns, strict=True))
        return np.array([self._number(caption) for caption in chosen], dtype=np.int64)

    def _number(self, text: str) -> int:
        if text not in self.known:
            raise NotReady(
                "a caption of the stream changed after it was encoded", got=text,
                do="run `zigma-bench data encode SUITE --check`",
            )  # fmt: skip
        return self.known[text]


def number_captions(splits: Splits, streamed: Sequence[Captions] | None = None) -> tuple[Splits, list[str]]:
    """The splits with captions numbered in the order of first use, and the captions by number.

    `streamed` is the captions of the training images, if they are known without reading the images.
    """
    numbers: dict[str, int] = {}
    train = _with_numbers(splits.train, numbers, streamed)
    validation = _with_numbers(splits.validation, numbers)
    return Splits(train, validation), list(numbers)


def _with_numbers(images: Images, numbers: dict[str, int], known: Sequence[Captions] | None = None) -> CaptionedImages:
    """The images with the numbers of their captions; a new caption gets the next number."""
    found, starts = [], [0]
    for start in range(0, len(images), CHUNK):
        rows = range(start, min(start + CHUNK, len(images)))
        for texts in captions_of(images, rows) if known is None else known[rows.start : rows.stop]:
            found += [numbers.setdefault(text, len(numbers)) for text in texts]
            starts.append(len(found))
    arrays = np.array(found, dtype=np.int64), np.array(starts, dtype=np.int64)
    return CaptionedStream(images, *arrays, numbers) if has_order(images) else CaptionedImages(images, *arrays)
