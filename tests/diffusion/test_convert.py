"""Convert between velocity, score, noise and data; exact values are known for Gaussian data."""

from __future__ import annotations

import pytest
import torch
from gaussian import PATHS, PREDICTIONS, Gaussian

from zigma_bench.diffusion.convert import linear_velocity_of, to_data, to_noise, to_score, to_velocity, velocity_of
from zigma_bench.diffusion.path import coefficients_at

T = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.99], dtype=torch.float64)
X = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TO = {"velocity": to_velocity, "score": to_score, "noise": to_noise, "data": to_data}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("wanted", TO)
def test_all_are_had_from_each(path, prediction, wanted):
    data = Gaussian(0.7, 0.4, path)
    said = data.saying(prediction)(X, T)
    found = TO[wanted](prediction, said, X, coefficients_at(path, T, X))
    torch.testing.assert_close(found, data.saying(wanted)(X, T), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_a_velocity_gives_noise_and_data_where_the_path_begins(path):
    """There, noise and score contain no information about the data on linear and gvp, but a velocity does."""
    t, x = torch.zeros(3, dtype=torch.float64), X[:3]
    data = Gaussian(0.7, 0.4, path)
    said, c = data(x, t), coefficients_at(path, t, x)
    for wanted in ("noise", "data", "score"):
        torch.testing.assert_close(TO[wanted]("velocity", said, x, c), data.saying(wanted)(x, t))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_any_network_gives_the_velocity_of_its_path_and_of_the_linear_path(path, prediction):
    data = Gaussian(-0.3, 0.6, path)
    own = velocity_of(data.saying(prediction), path, prediction)
    torch.testing.assert_close(own(X, T), data(X, T), rtol=1e-8, atol=1e-8)
    linear = linear_velocity_of(data.saying(prediction), path, prediction)
    torch.testing.assert_close(linear(X, T), Gaussian(-0.3, 0.6, "linear")(X, T), rtol=1e-8, atol=1e-8)


def test_a_velocity_on_the_linear_path_is_handed_through():
    network = Gaussian(0, 1, "linear")
    assert linear_velocity_of(network, "linear", "velocity") is network
    assert velocity_of(network, "gvp", "velocity") is network
