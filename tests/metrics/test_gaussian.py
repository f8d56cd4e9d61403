"""Gaussians of features: their distance from features or from moments, and its extrapolation."""

from __future__ import annotations

import numpy as np
import pytest

from zigma_bench.metrics.gaussian import POINTS, extrapolate_fd, fit_gaussian, frechet_distance_of, gaussian_of_moments


def draw(count: int, width: int, *, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    mix = np.random.default_rng(99).standard_normal((width, width)) / np.sqrt(width)
    return (np.random.default_rng(seed).standard_normal((count, width)) @ mix * scale + shift).astype(np.float32)


def trace_formula(a, b) -> float:
    """The closed form by eigenvalues of the product of covariances, in float64, as an independent implementation."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(s @ t).real, 0, None))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * roots.sum())


@pytest.mark.parametrize(("n", "m", "width"), [(200, 120, 40), (80, 300, 40)])
def test_the_distance_is_an_independent_computations(n, m, width):
    """Within 1e-6 of the distance, with at least twice as many images as features."""
    a, b = draw(n, width, seed=1), draw(m, width, seed=2, scale=1.3, shift=0.2)
    assert frechet_distance_of(fit_gaussian(a), fit_gaussian(b)) == pytest.approx(trace_formula(a, b), rel=1e-6)


def test_the_distance_is_torch_fidelitys():
    import torch
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = draw(300, 60, seed=3), draw(200, 60, seed=4, scale=1.3, shift=0.2)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)), verbose=False)
    assert frechet_distance_of(fit_gaussian(a), fit_gaussian(b)) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-6)


@pytest.mark.parametrize(("n", "width"), [(200, 30), (20, 50)])
def test_moments_contain_all_that_the_distance_needs(n, width):
    a, b = draw(n, width, seed=5), draw(120, width, seed=6, shift=0.5)
    kept = fit_gaussian(b)
    assert kept.covariance == pytest.approx(np.cov(b.astype(np.float64), rowvar=False), abs=1e-12)
    again = gaussian_of_moments(kept.mean, kept.covariance, kept.count)
    assert again.covariance == pytest.approx(kept.covariance, abs=1e-12)
    assert frechet_distance_of(fit_gaussian(a), again) == pytest.approx(
        frechet_distance_of(fit_gaussian(a), kept), abs=1e-6
    )


def test_the_extrapolation_finds_the_line():
    """FD(N) = c + k / N for a fixed reference: the result is near c, and nearer than FD(N) itself."""
    width = 20
    reference = gaussian_of_moments(np.zeros(width), np.eye(width))
    errors, plain = [], []
    for seed in range(8):
        x = np.random.default_rng(seed).standard_normal((400, width))
        found = extrapolate_fd(x, reference)
        errors.append(found.value)
        plain.append(frechet_distance_of(fit_gaussian(x), reference))
    assert np.mean(plain) > 0.05  # its bias at 400 images
    assert abs(np.mean(errors)) < 0.35 * np.mean(plain)


def test_the_extrapolation_is_the_same_again_and_names_its_counts():
    x, reference = draw(200, 12, seed=7), fit_gaussian(draw(300, 12, seed=8, shift=0.3))
    found = extrapolate_fd(x, reference)
    assert found == extrapolate_fd(x.copy(), reference)
    assert len(found.counts) == len(found.values) == POINTS
    assert (found.counts[0], found.counts[-1]) == (20, 200)
    assert found.values[-1] == pytest.approx(
        frechet_distance_of(fit_gaussian(x), reference), rel=1e-9
    )  # the last subset is all of it
    slope, intercept = np.polyfit(1 / np.array(found.counts), found.values, 1)
    assert found.value == pytest.approx(intercept, abs=1e-6)
    assert slope > 0


def test_the_smallest_part_has_full_rank():
    assert extrapolate_fd(draw(100, 50, seed=9), fit_gaussian(draw(100, 50, seed=10))).counts[0] == 50
