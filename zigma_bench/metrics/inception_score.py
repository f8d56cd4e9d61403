"""The Inception score from Inception's pooled features and the weights of its last layer, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

SPLITS = 10
SEED = 2020  # as torch-fidelity shuffles


def inception_score(features: npt.ArrayLike, weight: npt.ArrayLike) -> tuple[float, ...]:
    """exp(E KL(p(y|x) || p(y))) of each tenth of the shuffled images. The score is their mean.

    Uses features [N, d] and the last layer's weight [classes, d] without its bias, as is usual. Salimans 2016
    (arXiv:1606.03498), with torch-fidelity's splits. NaN if a feature is not finite.
    """
    x, w = np.asarray(features, np.float64), np.asarray(weight, np.float64)
    assert len(x) >= SPLITS, len(x)
    if not np.isfinite(x).all():
        return (float("nan"),) * SPLITS
    order = np.random.RandomState(SEED).permutation(len(x))
    bounds = [i * len(x) // SPLITS for i in range(SPLITS + 1)]
    return tuple(_score(log_softmax(x[order[start:stop]] @ w.T, axis=1)) for start, stop in itertools.pairwise(bounds))


def _score(log_p: npt.NDArray[np.float64]) -> float:
    """The score of images by their log-probabilities [n, classes]."""
    p = np.exp(log_p)
    with np.errstate(divide="ignore", invalid="ignore"):  # for a class that no image has, 0 log 0 is 0
        divergence = np.where(p > 0, p * (log_p - np.log(p.mean(0))), 0.0)
    return float(np.exp(divergence.sum(1).mean()))
