"""Precision, recall, density and coverage: find the points inside the balls around other points, in float64.

The ball of a feature reaches to its k-th nearest neighbour in its own set. All pairs are compared in blocks of at most
`ROWS` x `COLUMNS` distances, so that memory doesn't grow with the sets. Distances that differ only by rounding count as
equal: a point that is itself the k-th neighbour is on the sphere, for every block size and device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PRECISION_NEIGHBOURS = 3  # Kynkaanniemi 2019 (arXiv:1904.06991), and torch-fidelity's default
DENSITY_NEIGHBOURS = 5  # Naeem 2020 (arXiv:2002.09797)
ROWS, COLUMNS = 2048, 8192
ROUNDING = 2e-12  # of a squared distance, relative to the squared length of either point
ON_THE_SPHERE = 1e-10  # tolerance, relative to a squared radius

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BallCoverage:
    """How the balls of one set cover the points of another. The points are the samples, except for recall.

    `inside`: the share of points in at least one ball of 3 neighbours, including its sphere.
    `density`: the mean number of balls of 5 neighbours that contain a point, divided by 5, without the spheres.
    `coverage`: the share of these balls that contain a point.
    """

    inside: float
    density: float
    coverage: float


def points_in_balls(points: Features, centres: Features, *, device: str = "cpu") -> BallCoverage:
    """Compare points [N, d] with the balls around centres [M, d], where M > 5. NaN if a feature is not finite."""
    assert len(points) and len(centres) > max(PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS), (len(points), len(centres))
    if not (np.isfinite(points).all() and np.isfinite(centres).all()):
        return BallCoverage(float("nan"), float("nan"), float("nan"))
    near, wide = nearest_radii(centres, (PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS), device=device)
    near, wide = near * (1 + ON_THE_SPHERE), wide * (1 - ON_THE_SPHERE)
    inside, balls = 0, 0
    occupied = torch.zeros(len(centres), dtype=torch.bool, device=device)
    for rows in _blocks(points, ROWS, device):
        found = torch.zeros(len(rows), dtype=torch.bool, device=device)
        start = 0
        for columns in _blocks(centres, COLUMNS, device):
            part = slice(start, start + len(columns))
            squared = squared_distances(rows, columns)
            found |= (squared <= near[part]).any(1)
            within = squared < wide[part]
            balls += int(within.sum())
            occupied[part] |= within.any(0)
            start = part.stop
        inside += int(found.sum())
    count = len(points)
    return BallCoverage(inside / count, balls / (DENSITY_NEIGHBOURS * count), int(occupied.sum()) / len(centres))


def nearest_radii(features: Features, neighbours: tuple[int, ...], *, device: str = "cpu") -> tuple[Tensor, ...]:
    """The squared distance of each feature [N, d] to its k-th nearest other one, float64 [N], for each k."""
    most = max(neighbours) + 1  # the nearest one is the feature itself
    assert len(features) >= most, (len(features), neighbours)
    found = []
    for rows in _blocks(features, ROWS, device):
        nearest = rows.new_full((len(rows), most), float("inf"))
        for columns in _blocks(features, COLUMNS, device):
            both = torch.cat([nearest, squared_distances(rows, columns)], 1)
            nearest = both.topk(most, largest=False, sorted=True).values
        found.append(nearest)
    whole = torch.cat(found)
    return tuple(whole[:, k] for k in neighbours)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, float64 [n, m]; zero if it is only rounding error."""
    lengths = (x**2).sum(1)[:, None]
    squared = torch.addmm((y**2).sum(1), x, y.T, alpha=-2)
    squared += lengths
    return squared.masked_fill_(squared <= ROUNDING * lengths, 0.0)  # two near points have about the same length


def _blocks(features: Features, size: int, device: str) -> Iterator[Tensor]:
    for start in range(0, len(features), size):
        yield torch.from_numpy(np.array(features[start : start + size], np.float64)).to(device)
