"""Clips of the embedded digits: each digit moves in a straight line across a dark field and bounces off the edges.

This is Moving MNIST (Srivastava 2015, arXiv 1502.04681, section 4.2) with the digits of scikit-learn: real shapes,
known motion, no download. Clip i shows digit i; its start and its speed depend only on i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import ArrayImages, Counts, Labels, Pixels, Splits
from zigma_bench.data.reading.files import source_fingerprint
from zigma_bench.data.reading.holdout import hold_out
from zigma_bench.data.sources import digits
from zigma_bench.data.sources.options import DigitsOptions, MovingDigitsOptions
from zigma_bench.errors import UsageError
from zigma_bench.plugins.registry import DataFacts

VERSION = 1  # incremented when the same options give other pixels
MOTION_SEED = 20240531
FASTEST = 2  # pixels per frame in each direction; the speed is never zero in both

Places = npt.NDArray[np.int64]


def describe(options: MovingDigitsOptions) -> DataFacts:
    """The facts of the clips; UsageError for an invalid `validation`."""
    _check(options)
    still = digits.describe(DigitsOptions())
    identity = source_fingerprint("moving-digits", {**vars(options), "version": VERSION, "digits": still.fingerprint})
    side, held_out = options.resolution, options.validation
    return DataFacts(1, side, side, identity, still.missing, held_out, still.conditions, frames=options.frames)


def load(options: MovingDigitsOptions) -> Splits:
    """The clips as uint8 [N, frames, 1, resolution, resolution]; `validation` of them are held out."""
    _check(options)
    return hold_out(_Clips(digits.all_digits(), options), options.validation, where="moving-digits")


def count(options: MovingDigitsOptions) -> Counts:
    """The numbers of training and held-out clips."""
    return Counts(options.clips - options.validation, options.validation)


def motion_of(index: int, *, frames: int, room: int) -> Places:
    """The top left corner of the digit in each frame of a clip, [frames, 2]: row and column from 0 to `room`."""
    # the stream of RandomState is frozen (NEP 19); that of default_rng may change with NumPy
    draw = np.random.RandomState([MOTION_SEED, index])
    start = draw.randint(0, room + 1, 2)
    speed = np.zeros(2, np.int64)
    while not speed.any():  # every digit must move
        speed = draw.randint(-FASTEST, FASTEST + 1, 2)
    unbounded = start + speed * np.arange(frames)[:, None]
    phase = np.mod(unbounded, 2 * room)  # reflection at both edges has the period 2 room
    return np.where(phase > room, 2 * room - phase, phase).astype(np.int64)


@dataclass(frozen=True)
class _Clips:
    """The clips; clip i shows digit i."""

    still: ArrayImages
    options: MovingDigitsOptions

    def __len__(self) -> int:
        return self.options.clips

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        return self.still.labels(indices)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        wanted = np.arange(len(self))[np.asarray(indices, dtype=np.int64)]
        frames, side = self.options.frames, self.options.resolution
        clips = np.zeros((len(wanted), frames, 1, side, side), np.uint8)
        for clip, index, image in zip(clips, wanted, self.still.take(wanted), strict=True):
            places = motion_of(int(index), frames=frames, room=side - digits.SIDE)
            for frame, (top, left) in zip(clip, places, strict=True):
                frame[:, top : top + digits.SIDE, left : left + digits.SIDE] = image
        return clips


def _check(options: MovingDigitsOptions) -> None:
    if options.validation >= options.clips:
        raise UsageError(
            "validation leaves no training clip", where="moving-digits", expected=f"1 to {options.clips - 1}",
            got=options.validation,
        )  # fmt: skip
