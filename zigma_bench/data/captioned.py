"""Images with numbered captions: equal captions have one number, over both sides of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.images import Crop, Images, Labels, Pixels, Splits, Texts, captions_of, cropped, decodes

CHUNK = 10_000  # images whose captions are asked for at a time

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CaptionedImages:
    """Images whose labels are the numbers of their captions: image i has `numbers[starts[i] : starts[i + 1]]`.

    `labels` gives an image's first caption, `drawn_labels` one drawn from a seed.
    """

    images: Images
    numbers: Ids
    starts: Ids

    def __len__(self) -> int:
        return len(self.images)

    @property
    def decodes(self) -> bool:
        return decodes(self.images)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self.images.take(indices)

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        return cropped(self.images, indices, crops)

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Texts]:
        return captions_of(self.images, indices)

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        return self.turn_labels(indices, np.zeros(len(indices), dtype=np.int64))

    def drawn_labels(self, indices: Sequence[int] | npt.NDArray[np.integer], seed: int) -> Labels:
        counts = self._counts(indices)
        return self.turn_labels(indices, np.random.default_rng(seed).integers(0, counts))

    def turn_labels(self, indices: Sequence[int] | npt.NDArray[np.integer], turns: Ids) -> Labels:
        """The caption of each image whose turn it is; after the last comes the first."""
        wanted = np.asarray(indices, dtype=np.int64)
        found: Labels = self.numbers[self.starts[wanted] + turns % self._counts(indices)]
        return found

    def _counts(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Ids:
        wanted = np.asarray(indices, dtype=np.int64)
        return self.starts[wanted + 1] - self.starts[wanted]


def numbered(splits: Splits) -> tuple[Splits, list[str]]:
    """Both sides with numbered captions, in the order of first use, and the captions by number."""
    numbers: dict[str, int] = {}
    train, validation = (_with_numbers(images, numbers) for images in (splits.train, splits.validation))
    return Splits(train, validation), list(numbers)


def _with_numbers(images: Images, numbers: dict[str, int]) -> CaptionedImages:
    """The images with numbers of their captions; a caption that is new takes the next number."""
    found, starts = [], [0]
    for start in range(0, len(images), CHUNK):
        for texts in captions_of(images, range(start, min(start + CHUNK, len(images)))):
            found += [numbers.setdefault(text, len(numbers)) for text in texts]
            starts.append(len(found))
    return CaptionedImages(images, np.array(found, dtype=np.int64), np.array(starts, dtype=np.int64))
