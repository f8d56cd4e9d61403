"""Precision, recall, density and coverage: equal to torch-fidelity's, to the papers' formulas, and to known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zigma_bench.metrics import neighbours
from zigma_bench.metrics.neighbours import nearest_radii, points_in_balls, squared_distances


def draw(count: int, width: int = 8, *, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) * scale + shift).astype(np.float32)


def by_hand(points, centres):
    """The formulas of both papers on the whole matrix of distances, computed from differences."""

    def distances(a, b):
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=2)

    inner = np.sort(distances(centres, centres), axis=1)
    across = distances(points, centres)
    held = across < inner[:, 5]
    return (across <= inner[:, 3]).any(1).mean(), held.sum(1).mean() / 5, held.any(0).mean()


@pytest.mark.parametrize(("n", "m", "width"), [(70, 50, 8), (20, 90, 3), (33, 6, 40)])
@pytest.mark.parametrize("blocks", [(7, 11), (2048, 8192)])
def test_the_figures_are_those_of_the_papers_formulas(n, m, width, blocks, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "COLUMNS", blocks[1])
    points, centres = draw(n, width, seed=1, shift=0.3), draw(m, width, seed=2, scale=1.4)
    found = points_in_balls(points, centres)
    assert (found.inside, found.density, found.coverage) == pytest.approx(by_hand(points, centres), abs=1e-12)


@pytest.mark.parametrize(("n", "m", "width"), [(120, 90, 16), (60, 200, 64)])
def test_precision_and_recall_are_torch_fidelitys(n, m, width):
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    samples, reference = draw(n, width, seed=3, shift=0.4), draw(m, width, seed=4, scale=1.2)
    theirs = prc_features_to_metric(torch.from_numpy(samples), torch.from_numpy(reference), verbose=False)
    assert 0.05 < theirs[KEY_METRIC_PRECISION] < 1  # the comparison is meaningful
    assert points_in_balls(samples, reference).inside == pytest.approx(theirs[KEY_METRIC_PRECISION], abs=1e-6)
    assert points_in_balls(reference, samples).inside == pytest.approx(theirs[KEY_METRIC_RECALL], abs=1e-6)


@pytest.mark.parametrize("blocks", [(7, 11), (2048, 8192)])
def test_a_set_covers_itself_whatever_the_blocks(blocks, monkeypatch):
    """A point is in its own ball and those of its four nearest neighbours, so the density is 1; the fifth is on the
    sphere."""
    monkeypatch.setattr(neighbours, "ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "COLUMNS", blocks[1])
    x = draw(60, 12, seed=5)
    found = points_in_balls(x, x)
    assert (found.inside, found.density, found.coverage) == (1.0, 1.0, 1.0)
    assert points_in_balls(x, x[::-1].copy()) == found


def test_far_points_lie_in_no_ball_and_copies_in_few():
    x = draw(50, seed=6)
    far = points_in_balls(x + 1000, x)
    assert (far.inside, far.density, far.coverage) == (0.0, 0.0, 0.0)
    copies = points_in_balls(np.repeat(x[:1], 50, axis=0), x)  # all mass on one image: precise, and covers little
    assert copies.inside == 1.0
    assert copies.coverage < 0.5
    assert (
        points_in_balls(x, np.repeat(x[:1], 50, axis=0) + draw(50, seed=7, scale=1e-3)).inside < 0.1
    )  # recall of the copies


def test_duplicates_have_balls_of_no_size():
    x = np.repeat(draw(4, seed=8, shift=300.0), 10, axis=0)  # far from the origin, where rounding is largest
    assert all(bool((squared == 0).all()) for squared in nearest_radii(x, (3, 5)))
    found = points_in_balls(x, x)
    assert (found.inside, found.density, found.coverage) == (1.0, 0.0, 0.0)


def test_distances_are_those_of_differences():
    x, y = draw(9, 30, seed=9, shift=5), draw(7, 30, seed=10)
    found = squared_distances(torch.from_numpy(x).double(), torch.from_numpy(y).double()).numpy()
    expected = ((x[:, None].astype(np.float64) - y[None].astype(np.float64)) ** 2).sum(2)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_give_nan(bad):
    x, y = draw(20, seed=11), draw(20, seed=12)
    y[3, 2] = bad
    for found in (points_in_balls(x, y), points_in_balls(y, x)):
        assert np.isnan([found.inside, found.density, found.coverage]).all()


def test_memory_is_that_of_a_block(monkeypatch):
    """No tensor is as large as all three million distances; the largest one is a block."""
    monkeypatch.setattr(neighbours, "ROWS", 100)
    monkeypatch.setattr(neighbours, "COLUMNS", 100)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, tuple | list) else (found,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return found

    x, y = draw(2000, 4, seed=13), draw(1500, 4, seed=14)
    with Watch():
        points_in_balls(x, y)
    assert 100 * 100 <= largest <= 100 * (100 + 6)
