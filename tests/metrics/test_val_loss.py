"""The validation loss: known values, independence of the batch, and NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from zigma_bench.data.images import ArrayImages, Subset
from zigma_bench.diffusion.convert import linear_velocity_of
from zigma_bench.diffusion.path import coefficients_at
from zigma_bench.errors import UsageError
from zigma_bench.metrics.options import ValLossOptions
from zigma_bench.metrics.subject import Subject
from zigma_bench.metrics.val_loss import TIMES, fixed_noise, val_loss, velocity_losses
from zigma_bench.records.record import Record


def zero(x, t):
    return torch.zeros_like(x)


def flat(count: int, level: int) -> ArrayImages:
    return ArrayImages(np.full((count, 1, 8, 8), level, np.uint8))


def test_the_times_are_the_middles_of_eighths():
    assert TIMES == (0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875, 0.8125, 0.9375)


def test_a_network_that_says_zero_has_the_square_of_the_velocity_as_its_loss():
    """White images are x1 = 1: the loss is the mean of (1 - x0)^2 over the fixed noise itself."""
    measured = val_loss(ValLossOptions(), Subject(validation=flat(20, 255), network=zero))
    noise = np.stack([fixed_noise(i, (1, 8, 8)) for i in range(20)]).astype(np.float64)
    expected = ((1 - noise) ** 2).mean((0, 2, 3, 4))
    assert measured.raw == pytest.approx(expected, rel=1e-5)
    assert measured.value == pytest.approx(expected.mean(), rel=1e-5)
    assert measured.name == "val-loss"


def test_a_network_that_knows_the_answer_has_no_loss():
    """On one known image x1, x0 = (x_t - t x1) / (1 - t), so that x1 - x0 = (x1 - x_t) / (1 - t): t = 1 is data."""

    def perfect(x, t):
        return (1 - x) / (1 - t.reshape(-1, 1, 1, 1))

    assert val_loss(ValLossOptions(), Subject(validation=flat(9, 255), network=perfect)).value < 1e-9


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("prediction", ["velocity", "score", "noise"])
def test_the_value_is_that_of_the_linear_velocity_for_every_prediction(path, prediction):
    """A network that errs in the data by 0.1 everywhere errs in the linear velocity by 0.1 / (1 - t)."""

    def off(x, t):
        c = coefficients_at(path, t, x)
        data = torch.full_like(x, 1.1)
        noise = (x - c.alpha * data) / c.sigma
        return {"velocity": c.d_alpha * data + c.d_sigma * noise, "score": -noise / c.sigma, "noise": noise}[prediction]

    subject = Subject(validation=flat(9, 255), network=linear_velocity_of(off, path, prediction))
    expected = [(0.1 / (1 - time)) ** 2 for time in TIMES]
    assert val_loss(ValLossOptions(), subject).raw == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize(("pixel", "value"), [(0, -1.0), (255, 1.0), (51, -0.6)])
def test_pixels_are_scaled_to_minus_one_and_one(pixel, value):
    seen = []

    def watch(x, t):
        seen.append(x)
        return zero(x, t)

    velocity_losses(watch, flat(1, pixel))
    for x, time in zip(seen, TIMES, strict=True):
        noise = torch.from_numpy(fixed_noise(0, (1, 8, 8))[TIMES.index(time)])
        assert torch.allclose(x[0], time * value + (1 - time) * noise, atol=1e-6)


def test_the_figure_does_not_depend_on_the_batch(digits):
    def network(x, t):
        return torch.tanh(x) * t.reshape(-1, 1, 1, 1)

    few = Subset(digits, np.arange(10))
    whole = velocity_losses(network, few, batch=10)
    assert whole.shape == (10, 8)
    assert np.array_equal(velocity_losses(network, few, batch=3), whole)
    assert np.array_equal(velocity_losses(network, Subset(digits, np.arange(4)), batch=4), whole[:4])


def test_noise_is_of_the_image_and_the_time_alone():
    first = fixed_noise(3, (1, 8, 8))
    assert np.array_equal(first, fixed_noise(3, (1, 8, 8)))
    assert not np.allclose(first, fixed_noise(4, (1, 8, 8)))
    assert not np.allclose(first[0], first[1])
    many = np.stack([fixed_noise(i, (1, 8, 8)) for i in range(200)])
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_the_count_and_the_pixels_are_in_the_fingerprint(digits):
    subject = Subject(validation=Subset(digits, np.arange(30)), network=zero)
    first, fewer = (val_loss(ValLossOptions(count), subject).fingerprint for count in (512, 20))
    assert (first["n_images"], fewer["n_images"]) == (30, 20)
    assert first["images_sha256"] != fewer["images_sha256"]
    json.dumps(first)


def test_nan_is_a_status_that_a_record_can_hold(digits):
    def broken(x, t):
        return torch.full_like(x, float("nan"))

    measured = val_loss(ValLossOptions(4), Subject(validation=digits, network=broken))
    assert (measured.status, measured.value, measured.raw) == ("nan", None, ())
    Record("quality", "0", {}, "done", (measured,)).to_json()


def test_a_velocity_of_another_shape_is_an_error(digits):
    with pytest.raises(UsageError, match="another shape"):
        val_loss(ValLossOptions(4), Subject(validation=digits, network=lambda x, t: x[:, :, :1]))


def test_no_network_is_an_error(digits):
    with pytest.raises(UsageError, match="no network"):
        val_loss(ValLossOptions(4), Subject(validation=digits))
