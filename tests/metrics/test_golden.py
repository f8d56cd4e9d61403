"""The eight images that verify an extractor: golden features for EfficientNet-Lite0, recorded ones for others."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import get_args

import numpy as np
import pytest
import torch
from golden_features import features as computed
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import NotReady
from zigma_bench.metrics import features as features_module
from zigma_bench.metrics.apply import measure_metric
from zigma_bench.metrics.extractors import golden
from zigma_bench.metrics.extractors.efflite import efflite
from zigma_bench.metrics.extractors.golden import STEP, check_golden, golden_images, golden_values
from zigma_bench.metrics.features import Extractor, features_of_images
from zigma_bench.metrics.options import EFFLITES, EffliteSize
from zigma_bench.metrics.subject import Subject


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(features_module, "_memory", {})


class Mean(FeatureExtractorBase):
    """The mean of each channel, times a factor: an extractor that has no golden features."""

    def __init__(self, factor: float) -> None:
        super().__init__("mean", ["mean"])
        self.factor = factor

    def forward(self, pixels):
        return (pixels.float().mean((2, 3)) * self.factor,)

    @staticmethod
    def get_provided_features_list():
        return ("mean",)


def of_mean(factor: float) -> Extractor:
    return Extractor("mean", "mean", 3, "0" * 64, "none", functools.partial(Mean, factor))


def test_the_images_are_the_same_everywhere():
    images = golden_images()
    assert (images.shape, images.dtype) == ((8, 3, 32, 32), np.uint8)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "d72bf9fa43ed7e63"
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8
    x, y, c, i = 5, 9, 2, 3
    assert images[i, c, y, x] == (6 * 10 + 10 * 17 + 80 + 45 * 5 // 7) % 256


@pytest.mark.parametrize("family", EFFLITES)
@pytest.mark.parametrize("size", [64, 128])
def test_the_golden_features_are_float64s_and_float32_is_well_within_the_tolerance(family, size):
    rows = golden_values()[f"{family}-{size}"]
    exact = computed(family, size)
    assert rows == pytest.approx(exact[:, ::STEP], abs=1e-8)
    assert all(np.count_nonzero(row) >= 8 for row in rows)
    found = features_of_images(ArrayImages(golden_images()), efflite(family, size))
    off = np.abs(found - exact).max(1) / exact.max(1)
    assert off.max() < golden.TOLERANCE / 10


def test_every_size_of_every_installed_extractor_has_golden_features():
    assert set(golden_values()) == {f"{family}-{size}" for family in EFFLITES for size in get_args(EffliteSize)}
    for name, rows in golden_values().items():
        family, size = name.split("-")
        found = features_of_images(ArrayImages(golden_images()), efflite(family, int(size)))[:, ::STEP]
        assert (np.abs(found - rows).max(1) / rows.max(1)).max() < golden.TOLERANCE / 10
    spaces = [rows.ravel() for rows in golden_values().values()]
    assert all(not np.allclose(a, b, atol=0.1) for i, a in enumerate(spaces) for b in spaces[:i])


def to_19_bits(x):
    """Float32 rounded as in TensorFloat-32: ten bits of mantissa."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("part", ["resize", "weights", "precision", "tensor-float-32"])
def test_another_resize_other_weights_and_fewer_bits_are_noticed(part, monkeypatch):
    network = efflite("efflite0", 64).build()
    if part == "tensor-float-32":
        conv = torch.nn.functional.conv2d
        rounded = lambda x, w, *rest, **more: conv(to_19_bits(x), to_19_bits(w), *rest, **more)  # noqa: E731
        monkeypatch.setattr(torch.nn.functional, "conv2d", rounded)
    if part == "weights":
        network.network._conv_head.weight.data[400] += 0.01
    pixels = torch.from_numpy(golden_images())
    if part == "resize":
        pixels = torch.nn.functional.interpolate(pixels.float(), (64, 64), mode="bilinear").round().byte()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=part == "precision"):
        found = network(pixels)[0].float().numpy()
    with pytest.raises(NotReady, match="no longer computes the same features of eight fixed images"):
        check_golden(lambda images: found, efflite("efflite0", 64), None)


def test_a_drifted_extractor_is_a_refused_row(digits, monkeypatch):
    off = {name: rows * 1.001 for name, rows in golden_values().items()}
    monkeypatch.setattr(golden, "golden_values", lambda: off)
    found = measure_metric("fd-efflite0", {"size": 64}, Subject(samples=digits, reference=digits))
    assert (found.status, found.value) == ("refused", None)
    assert "efflite0-64 no longer computes the same features" in found.reason


def test_first_features_are_recorded_and_compared_with(noise, tmp_path, capsys):
    features_of_images(noise(4, (3, 8, 8)), of_mean(1.0), cache=tmp_path, store=False)
    (file,) = (tmp_path / "golden").iterdir()
    assert np.load(file) == pytest.approx(golden_images().mean((2, 3)), rel=1e-6)
    before = file.read_bytes()
    features_of_images(
        noise(5, (3, 8, 8)), of_mean(1 + 1e-6), cache=tmp_path, store=False
    )  # as another kind of device would
    assert file.read_bytes() == before
    with pytest.raises(NotReady, match=f"golden/{file.stem[:-32]}.*the same features"):
        features_of_images(noise(6, (3, 8, 8)), of_mean(1.01), cache=tmp_path, store=False)
    file.write_bytes(before[:50])
    features_of_images(noise(7, (3, 8, 8)), of_mean(1.0), cache=tmp_path, store=False)
    assert f"{file.name}: the file is altered" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_another_file_of_weights_is_another_record(noise, tmp_path):
    features_of_images(noise(4, (3, 8, 8)), of_mean(1.0), cache=tmp_path)
    features_of_images(noise(4, (3, 8, 8)), dataclasses.replace(of_mean(2.0), weights_sha256="1" * 64), cache=tmp_path)
    assert len(list((tmp_path / "golden").iterdir())) == 2


def test_features_that_are_not_finite_are_refused_at_the_start(noise, tmp_path):
    with pytest.raises(NotReady, match="not finite"):
        features_of_images(noise(4, (3, 8, 8)), of_mean(float("nan")), cache=tmp_path)
    assert not (tmp_path / "golden").exists()
