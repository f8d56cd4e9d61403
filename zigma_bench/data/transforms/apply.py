"""Images after transforms, which keep the number of images and the splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

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
    labels_of,
    take_crops,
)  # fmt: skip
from zigma_bench.errors import UsageError

MEMORY_BYTES = 2**30  # a split of at most this size is transformed once and stays in memory
CHUNK = 1000  # images at a time

Transform = Callable[[Pixels], Pixels]  # uint8 [n, C, H, W] to the same shape; each frame of a clip is an image


@dataclass(frozen=True)
class TransformedImages:
    """Images after all steps.

    If all pixels fit in MEMORY_BYTES, the first `take` transforms all images and keeps them in memory.
    """

    images: Images
    steps: tuple[Transform, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        wanted = np.asarray(indices, dtype=np.int64)
        return self._all[wanted] if self._fits else self._made(wanted)

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        """The images, cropped and then transformed; they are not kept in memory."""
        return self._after(take_crops(self.images, indices, crops))

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        return labels_of(self.images, indices)

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Captions]:
        return captions_of(self.images, indices)

    @property
    def decodes(self) -> bool:
        """Whether the images are too large to stay in memory."""
        return not self._fits

    @cached_property
    def _fits(self) -> bool:
        return len(self) > 0 and len(self) * self.images.take([0]).nbytes <= MEMORY_BYTES

    @cached_property
    def _all(self) -> Pixels:
        return self._made(np.arange(len(self)))

    def _made(self, indices: npt.NDArray[np.int64]) -> Pixels:
        pixels = self.images.take(indices[:CHUNK])
        parts = [self._after(pixels)]
        for start in range(CHUNK, len(indices), CHUNK):
            parts.append(self._after(self.images.take(indices[start : start + CHUNK])))
        return np.concatenate(parts)

    def _after(self, pixels: Pixels) -> Pixels:
        if pixels.ndim == 5:
            return self._after(pixels.reshape(-1, *pixels.shape[2:])).reshape(pixels.shape)
        for step in self.steps if len(pixels) else ():
            after = step(pixels)
            if after.dtype != np.uint8 or after.shape != pixels.shape:
                raise UsageError(
                    "a transform changes the dtype or shape of the images",
                    expected=f"uint8 {list(pixels.shape)}", got=f"{after.dtype} {list(after.shape)}",
                    do="fix the plugin",
                )  # fmt: skip
            pixels = after
        return pixels


class TransformedStream(TransformedImages):
    """Images of a stream after all steps; they define their own order, and are not kept in memory."""

    decodes = True

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self._made(np.asarray(indices, dtype=np.int64))

    def epoch(self, seed: int, number: int) -> TransformedStream:
        """The images in the order of epoch `number`."""
        return TransformedStream(epoch_of(self.images, seed, number), self.steps)


def apply_transforms(splits: Splits, steps: Sequence[Transform]) -> Splits:
    """The splits after all steps; the same object without steps."""
    if not steps:
        return splits
    return Splits(*(_transform_images(images, tuple(steps)) for images in (splits.train, splits.validation)))


def _transform_images(images: Images, steps: tuple[Transform, ...]) -> TransformedImages:
    return TransformedStream(images, steps) if has_order(images) else TransformedImages(images, steps)
