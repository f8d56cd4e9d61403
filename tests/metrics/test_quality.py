"""The two distances: known values, and equal to torch-fidelity's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zigma_bench.metrics import quality
from zigma_bench.metrics.quality import frechet_distance, kid_of_features, kid_subset_size

SHAPES = [(40, 30, 12), (30, 40, 64), (200, 9, 32)]  # N > d, N < d, and one of each


def draw(count: int, width: int, *, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) * scale + shift).astype(np.float32)


def close(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= max(1e-4, 1e-6 * abs(theirs))


@pytest.mark.parametrize(("n", "m", "width"), SHAPES)
def test_frechet_is_torch_fidelitys(n, m, width):
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = draw(n, width, seed=1), draw(m, width, seed=2, scale=1.5, shift=0.5)
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    assert close(frechet_distance(a, b), fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


@pytest.mark.parametrize(("n", "m", "width"), [(400, 300, 6), (90, 70, 20)])
def test_frechet_is_the_closed_form_of_gaussians(n, m, width):
    from scipy.linalg import sqrtm

    a, b = draw(n, width, seed=3).astype(np.float64), draw(m, width, seed=4, scale=2, shift=1).astype(np.float64)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(s + t) - 2 * np.trace(sqrtm(s @ t)).real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_known_gaussians():
    """N(0, 1) against N(3, 4) in each of 2 dimensions: 2 * (3^2 + (1 - 2)^2) = 20."""
    x = np.random.default_rng(5).standard_normal((500, 2))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    assert frechet_distance(x, 3 + 2 * x) == pytest.approx(20, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "width"), SHAPES)
def test_frechet_of_a_set_and_itself_is_zero_and_it_is_symmetric(n, m, width):
    a, b = draw(n, width, seed=6, scale=10), draw(m, width, seed=7, scale=5)
    assert abs(frechet_distance(a, a)) < 1e-6
    assert frechet_distance(a, a + 1) == pytest.approx(width, rel=1e-5)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("at_once", [True, False])
def test_kid_is_torch_fidelitys(at_once, monkeypatch):
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    monkeypatch.setattr(quality, "GRAM_IMAGES", 10**6 if at_once else 0)
    a, b = draw(120, 40, seed=8), draw(90, 40, seed=9, scale=1.2, shift=0.3)
    theirs = kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), kid_subset_size=45, verbose=False)
    ours = kid_of_features(a, b)
    assert (ours.subset_size, len(ours.values)) == (45, 100)
    assert close(ours.mean, theirs[KEY_METRIC_KID_MEAN])
    assert close(ours.deviation, theirs[KEY_METRIC_KID_STD])


def test_both_ways_to_the_kernel_distance_give_one_figure(monkeypatch):
    a, b = draw(70, 20, seed=10), draw(50, 20, seed=11, shift=0.2)
    at_once = kid_of_features(a, b).values
    monkeypatch.setattr(quality, "GRAM_IMAGES", 0)
    assert kid_of_features(a, b).values == pytest.approx(at_once, rel=1e-10, abs=1e-12)


def test_kid_of_one_distribution_is_near_zero_and_grows_with_a_shift():
    a, b = draw(800, 32, seed=12), draw(800, 32, seed=13)
    assert abs(kid_of_features(a, b).mean) < 0.01
    assert kid_of_features(a, b + 0.3).mean > 0.05


@pytest.mark.parametrize(
    ("samples", "reference", "size"), [(5000, 2000, 1000), (1000, 797, 398), (4, 9000, 2), (2001, 5, 2)]
)
def test_the_subset_size_is_a_rule_of_the_counts(samples, reference, size):
    assert kid_subset_size(samples, reference) == size


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_give_nan(bad):
    a, b = draw(20, 4, seed=14), draw(20, 4, seed=15)
    a[3, 2] = bad
    assert np.isnan(frechet_distance(a, b))
    assert np.isnan(kid_of_features(a, b).mean)


def test_another_device_gives_the_same_values():
    a, b = np.random.default_rng(0).normal(size=(60, 16)), np.random.default_rng(1).normal(0.1, size=(90, 16))
    there = tuple(quality._on_device(a, b, _picks(60, 90, 30), "cpu"))  # the code for a GPU, run by PyTorch on this CPU
    assert there == pytest.approx(kid_of_features(a, b).values, rel=1e-10, abs=1e-12)


def _picks(left: int, right: int, size: int):
    draw = np.random.RandomState(quality.SEED)
    return [[draw.choice(count, size, replace=False) for count in (left, right)] for _ in range(quality.SUBSETS)]
