"""The Inception score: equal to torch-fidelity's, and to known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zigma_bench.metrics.inception_score import inception_score


def draw(count: int, width: int, *, seed: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) * scale).astype(np.float32)


@pytest.mark.parametrize("count", [10, 57, 200])
def test_it_is_torch_fidelitys(count):
    from torch_fidelity.metric_isc import isc_features_to_metric

    features, weight = draw(count, 16, seed=1), draw(30, 16, seed=2)
    theirs = isc_features_to_metric(torch.from_numpy(features.astype(np.float64) @ weight.T.astype(np.float64)))
    found = inception_score(features, weight)
    assert np.mean(found) == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert np.std(found) == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_equal_images_score_one_and_confident_ones_of_every_class_score_the_number_of_classes():
    same = np.repeat(draw(1, 8, seed=3), 50, axis=0)
    assert inception_score(same, draw(5, 8, seed=4)) == pytest.approx([1.0] * 10, abs=1e-12)
    unsure = np.zeros((50, 8), np.float32)
    assert inception_score(unsure, draw(5, 8, seed=4)) == pytest.approx([1.0] * 10, abs=1e-12)
    classes = 4
    sure = (
        1000 * np.eye(classes, dtype=np.float32)[np.arange(4000) % classes]
    )  # so sure that the others are exact zeros
    assert np.mean(inception_score(sure, np.eye(classes))) == pytest.approx(classes, rel=0.01)


def test_features_that_are_not_finite_give_nan():
    features = draw(20, 4, seed=5)
    features[3, 1] = np.inf
    assert np.isnan(inception_score(features, draw(6, 4, seed=6))).all()
