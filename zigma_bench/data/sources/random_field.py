"""Gaussian random fields: images whose only structure is a power spectrum proportional to k^-slope.

With a slope of 0, pixels are independent. Natural photographs have a slope of about 2 (Field 1987, doi
10.1364/JOSAA.4.002379: amplitudes fall as 1/k). Phases are random, so there are no edges, objects or preferred places.

White noise is drawn in float64 and filtered in Fourier space: the mode with k cycles per image (k > 0, in any
direction) is multiplied by k^(-slope/2), and the mean is removed. The field is periodic, and channels are independent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import Counts, Pixels, Splits
from zigma_bench.data.reading.files import source_fingerprint
from zigma_bench.data.sources.options import GaussianRandomFieldOptions
from zigma_bench.plugins.registry import DataFacts

VERSION = 1  # incremented when the same options give other pixels
TRAIN, VALIDATION = 0, 1  # separate streams of random numbers
DEVIATIONS = 4.0  # standard deviations of the field between middle grey and black or white
CHUNK = 500  # images filtered at a time
MEMORY_BYTES = 2**26  # fields of at most this size are generated once and stay in memory

Field = npt.NDArray[np.float64]


def describe(options: GaussianRandomFieldOptions) -> DataFacts:
    """The facts of the fields; nothing is ever missing."""
    parts = {**vars(options), "version": VERSION}
    size = options.resolution
    return DataFacts(
        options.channels, size, size, source_fingerprint("gaussian-random-field", parts), held_out=options.validation
    )


def load(options: GaussianRandomFieldOptions) -> Splits:
    """`count` training fields and `validation` other fields, uint8 [N, channels, resolution, resolution].

    A pixel is 127.5 + (127.5 / 4) * field / sigma, clipped to [0, 255] and rounded. Here sigma is the standard
    deviation of the spectrum, not that of an image. 6 of 100,000 pixels are clipped, and rounding adds white noise
    41 dB below the field.
    """
    return Splits(
        _Fields(options, TRAIN, options.count),
        _Fields(options, VALIDATION, options.validation),
    )


def count(options: GaussianRandomFieldOptions) -> Counts:
    """The numbers of training and held-out fields."""
    return Counts(options.count, options.validation)


def filter_of(resolution: int, slope: float) -> Field:
    """The filter [R, R/2 + 1] that turns the half spectrum of white noise of variance 1 into that of a field of
    variance 1."""
    k = np.hypot(np.fft.fftfreq(resolution)[:, None], np.fft.rfftfreq(resolution)) * resolution
    k[0, 0] = 1.0
    amplitude = k ** (-slope / 2)
    amplitude[0, 0] = 0.0
    power = amplitude**2 * np.where(_has_no_mirror(resolution), 1.0, 2.0)
    return np.asarray(amplitude / np.sqrt(power.sum() / resolution**2))


def _has_no_mirror(resolution: int) -> npt.NDArray[np.bool_]:
    """Whether a column of a half spectrum represents only itself; the others also represent their mirror image."""
    columns = np.arange(resolution // 2 + 1)
    return np.asarray((columns == 0) | (2 * columns == resolution))


@dataclass(frozen=True)
class _Fields:
    """The fields of one stream; image i depends only on (seed, stream, i)."""

    options: GaussianRandomFieldOptions
    stream: int
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def decodes(self) -> bool:
        """Whether the fields are too large to stay in memory."""
        return self.count * self.options.channels * self.options.resolution**2 > MEMORY_BYTES

    @functools.cached_property
    def _all(self) -> Pixels:
        return self._drawn(range(self.count))

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return self._drawn(indices) if self.decodes else self._all[np.asarray(indices, dtype=np.int64)]

    def _drawn(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        wanted = [int(index) for index in np.arange(self.count)[np.asarray(indices, dtype=np.int64)]]
        shaped = filter_of(self.options.resolution, self.options.slope)
        parts = [self._made(wanted[start : start + CHUNK], shaped) for start in range(0, len(wanted), CHUNK)]
        size = self.options.resolution
        return np.concatenate([np.empty((0, self.options.channels, size, size), np.uint8), *parts])

    def _made(self, indices: Sequence[int], shaped: Field) -> Pixels:
        white = np.stack([self._white(index) for index in indices])
        size = self.options.resolution
        field = np.fft.irfft2(np.fft.rfft2(white) * shaped, s=(size, size))
        return np.rint(np.clip(127.5 + (127.5 / DEVIATIONS) * field, 0, 255)).astype(np.uint8)

    def _white(self, index: int) -> Field:
        # the stream of RandomState is frozen (NEP 19); that of default_rng may change with NumPy
        draw = np.random.RandomState([self.options.seed, self.stream, index])
        return draw.standard_normal((self.options.channels, self.options.resolution, self.options.resolution))
