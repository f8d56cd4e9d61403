"""Gaussian random fields: the requested slope, level statistics, and splits without a common image."""

from __future__ import annotations

import numpy as np
import pytest

from zigma_bench.data.sources.options import GaussianRandomFieldOptions as Options
from zigma_bench.data.sources.random_field import describe, filter_of, load


def measured_slope(pixels):
    """Minus the slope of log power on log k, over single modes from 2 cycles an image to half of the finest."""
    size = pixels.shape[-1]
    power = (np.abs(np.fft.fft2(pixels.astype(float))) ** 2).mean((0, 1))
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size) * size] * 2, indexing="ij"))
    used = (k >= 2) & (k <= size / 4)
    return -np.polyfit(np.log(k[used]), np.log(power[used]), 1)[0]


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("size", [32, 45])
def test_the_spectrum_has_the_slope_that_was_asked(slope, size):
    fields = load(Options(slope, size, channels=3, count=150, validation=1)).train
    assert measured_slope(fields.take(range(150))) == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize("slope", [0.0, 2.0, 4.0])
def test_levels_have_the_stated_mean_and_deviation(slope):
    pixels = load(Options(slope, 16, count=3000, validation=1)).train.take(range(3000)).astype(float)
    assert pixels.mean() == pytest.approx(127.5, abs=0.01)  # the mean mode is dropped in every image
    assert np.sqrt((pixels - 127.5).__pow__(2).mean()) == pytest.approx(127.5 / 4, rel=0.03)


@pytest.mark.parametrize("size", [2, 5, 8])
def test_the_filter_keeps_the_variance_of_white_noise(size):
    shaped = filter_of(size, 3.0)
    white = np.random.RandomState(0).standard_normal((20_000, size, size))
    field = np.fft.irfft2(np.fft.rfft2(white) * shaped, s=(size, size))
    assert field.var() == pytest.approx(1, rel=0.03)


def test_an_image_depends_on_seed_and_index_alone():
    many = load(Options(2.0, 8, count=40, validation=30))
    few = load(Options(2.0, 8, count=7, validation=5))
    assert np.array_equal(many.train.take([6, 0]), few.train.take([6, 0]))
    assert np.array_equal(many.train.take(range(40))[[39, 3]], many.train.take([39, 3]))
    other = load(Options(2.0, 8, count=40, validation=30, seed=1))
    for a in (many.train, many.validation, other.train):
        for b in (many.train, many.validation, other.train):
            shared = {x.tobytes() for x in a.take(range(len(a)))} & {x.tobytes() for x in b.take(range(len(b)))}
            assert bool(shared) == (a is b)
    with pytest.raises(IndexError):
        many.train.take([40])
    assert many.train.take([]).shape == (0, 1, 8, 8)


def test_every_option_is_in_the_fingerprint():
    sets = [Options(2.0), Options(1.0), Options(2.0, 16), Options(2.0, channels=3), Options(2.0, count=9),
            Options(2.0, validation=9), Options(2.0, seed=1)]  # fmt: skip
    assert len({describe(options).fingerprint for options in sets}) == len(sets)
    assert describe(sets[0]) == describe(Options(2.0))
    assert (describe(sets[3]).channels, describe(sets[2]).height, describe(sets[0]).held_out) == (3, 16, 2000)
