"""The Frechet distance between Gaussians, from features or from a mean and a covariance, in float64.

Let A and B be centred features divided by sqrt(n - 1), so that S = A'A is a covariance. Then Tr (S_a S_b)^(1/2) is the
nuclear norm of A B'. It is real, never negative, and exact for singular covariances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

POINTS = 15  # counts of images at which the distance is computed for the extrapolation, as in Chong and Forsyth 2020
EXTRAPOLATION_SEED = 2020
SMALLEST_PART = 10  # the smallest count is a tenth of the images, but at least the number of features


@dataclass(frozen=True)
class Gaussian:
    """A mean [d] and a `root` R [r, d] such that R'R is the covariance. `count`: the number of images, None if
    unknown."""

    mean: Matrix
    root: Matrix
    count: int | None

    @property
    def covariance(self) -> Matrix:
        return np.asarray(self.root.T @ self.root)


@dataclass(frozen=True)
class Extrapolation:
    """The distance extrapolated to infinitely many samples: the intercept of a line fitted to `values` over 1 /
    `counts`."""

    value: float
    counts: tuple[int, ...]
    values: tuple[float, ...]


def fit_gaussian(features: npt.ArrayLike) -> Gaussian:
    """The Gaussian of features [N, d]: the mean, and the covariance over N - 1."""
    x = np.asarray(features, np.float64)
    assert x.ndim == 2 and len(x) >= 2, ("a covariance needs two images", x.shape)
    mean = x.mean(0)
    centred: Matrix = (x - mean) / np.sqrt(len(x) - 1)
    if len(x) > x.shape[1]:
        centred = np.asarray(np.linalg.qr(centred, mode="r"))  # A = QR, and Q doesn't change the nuclear norm
    return Gaussian(mean, centred, len(x))


def gaussian_of_moments(mean: npt.ArrayLike, covariance: npt.ArrayLike, count: int | None = None) -> Gaussian:
    """The Gaussian of a mean [d] and a covariance [d, d]. Eigenvalues that rounding made negative become zero."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    return Gaussian(np.asarray(mean, np.float64), np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T, count)


def frechet_distance_of(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + Tr S_a + Tr S_b - 2 Tr (S_a S_b)^(1/2)  (Heusel 2017, eq. 6; arXiv:1706.08500)."""
    assert a.mean.shape == b.mean.shape, (a.mean.shape, b.mean.shape)
    shift = a.mean - b.mean
    nuclear = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    return float(shift @ shift + (a.root**2).sum() + (b.root**2).sum() - 2 * nuclear)


def extrapolate_fd(features: npt.ArrayLike, reference: Gaussian) -> Extrapolation:
    """The distance of features [N, d], extrapolated in 1/N over random subsets with a fixed seed (FID-infinity).

    Chong and Forsyth 2020 (arXiv:1911.07023): 15 equally spaced counts up to N, and a least-squares line over 1 /
    count. The whole reference is used each time. N is at least twice d, so that every covariance has full rank.
    """
    x = np.asarray(features)
    n, d = x.shape
    assert n >= 2 * d, (n, d)
    counts = np.linspace(max(n // SMALLEST_PART, d), n, POINTS).astype(int)
    values = []
    for point, count in enumerate(counts):
        draw = np.random.Generator(np.random.Philox(key=[EXTRAPOLATION_SEED, point]))
        values.append(frechet_distance_of(fit_gaussian(x[np.sort(draw.permutation(n)[:count])]), reference))
    intercept = np.polynomial.Polynomial.fit(1 / counts, values, 1).convert().coef[0]
    return Extrapolation(float(intercept), tuple(counts.tolist()), tuple(values))
