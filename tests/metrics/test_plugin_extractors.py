"""An extractor of a plugin: one registration adds all metrics on its features."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch

from zigma_bench import hookimpl
from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import BrokenPlugin, NotReady, UsageError
from zigma_bench.metrics import features as features_module
from zigma_bench.metrics.quality import frechet_distance
from zigma_bench.metrics.subject import Subject
from zigma_bench.plugins.discovery import Catalogue, _add, specs_of
from zigma_bench.plugins.registry import ExtractorFacts, Missing
from zigma_bench.testing import report_of


@dataclass(frozen=True)
class Options:
    """The mean of each channel, times a factor."""

    factor: int = 1


class Means(torch.nn.Module):
    def __init__(self, options):
        super().__init__()
        self.factor = options.factor

    def forward(self, pixels):
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3
        return pixels.float().mean((2, 3)) * self.factor


def too_wide(options):
    return lambda pixels: pixels.float().flatten(1)


def no_network(options):
    return 3


def plugin(target="made_extractor:Means", **facts) -> ModuleType:
    made = ModuleType("made_extractor")

    def register_extractors(register):
        register("means", target, options=Options, facts=ExtractorFacts(**{"dimensions": 3, **facts}))

    made.register_extractors = hookimpl(register_extractors)
    made.Means, made.too_wide, made.no_network = Means, too_wide, no_network
    return made


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "made_extractor", plugin())
    monkeypatch.setattr(features_module, "_memory", {})


def metrics(**facts):
    return {spec.name: spec for spec in specs_of(plugin(**facts), "made", "made 1.0")}


@pytest.fixture
def subject():
    draw = np.random.default_rng(0)
    images = [ArrayImages(draw.integers(0, 200 + 55 * i, (20, 3, 8, 8), dtype=np.uint8)) for i in range(2)]
    return Subject(*images, {"data": "made up"})


def test_all_measures_on_its_features_come_with_it():
    found = metrics()
    covers = ("precision", "recall", "density", "coverage")
    assert set(found) == {
        "means", "fd-means", "fd-means-infinity", "kid-means", "frame-fd-means", "frame-kid-means",
        *(f"{cover}-means" for cover in covers),
    }  # fmt: skip
    assert {spec.owner for spec in found.values()} == {"made 1.0"}
    assert all(spec.comes_with == ("means" if name != "means" else None) for name, spec in found.items())
    assert found["fd-means"].doc == "Frechet distance on means features"
    assert found["fd-means"].resolve({"factor": 2}, where="here") == {"factor": 2}
    assert found["fd-means-infinity"].facts.minimum_images(Options()) == 6
    assert found["kid-means"].facts.better == "lower" and found["recall-means"].facts.better == "higher"


def test_a_figure_is_that_of_its_features_with_its_origin_in_the_fingerprint(subject):
    found = metrics(fingerprint=lambda options: "abc")["fd-means"].load()(Options(2), subject)
    means = [2 * images.take(range(20)).mean((2, 3)) for images in (subject.samples, subject.reference)]
    assert (found.name, found.status) == ("fd-means", "ok")
    assert found.value == pytest.approx(frechet_distance(*means), rel=1e-4)
    facts = {key: found.fingerprint[key] for key in ("extractor", "owner", "options", "weights_sha256", "n_samples")}
    assert facts == {
        "extractor": "means", "owner": "made 1.0", "options": {"factor": 2}, "weights_sha256": "abc", "n_samples": 20,
    }  # fmt: skip
    other = metrics(variant=lambda options: "1a2b3c4d")["kid-means"].load()(Options(), subject)
    assert other.name == "kid-means-1a2b3c4d"


def test_it_passes_what_plugins_are_checked_by(monkeypatch):
    monkeypatch.setattr("zigma_bench.testing.extractor.imports_without_torch", lambda name: "this test imports torch")
    report_of(metrics()["means"]).require()
    assert not report_of(metrics(dimensions=4)["means"]).ok


def test_features_of_the_fixed_images_are_compared(subject):
    golden = [[0.0]] * 8
    with pytest.raises(NotReady, match="means no longer computes the same features of eight fixed images"):
        metrics(golden=lambda options: np.array(golden) + 1)["fd-means"].load()(Options(), subject)


@pytest.mark.parametrize(
    ("facts", "error", "words"),
    [
        ({"dimensions": 4}, BrokenPlugin, r"returns features of another shape; expected \[20, 4\], as its facts say"),
        ({"target": "made_extractor:too_wide"}, BrokenPlugin, r"another shape; expected \[20, 3\]"),
        ({"target": "made_extractor:no_network"}, BrokenPlugin, "is not a network"),
        ({"missing": lambda options: (Missing("no file", "get it"),)}, NotReady, "no file"),
        ({"missing": lambda options: "no file"}, BrokenPlugin, "returns a wrong value; expected a tuple of registry"),
    ],
)
def test_faults_name_the_extractor(subject, facts, error, words):
    with pytest.raises(error, match=words):
        metrics(**facts)["fd-means"].load()(Options(), subject)


def test_the_fields_plain_names_are_inceptions():
    found = Catalogue()
    _add(found, "first", "first 1.0", lambda: plugin(plain_names=True))
    assert {"fid", "kid"} <= {spec.name for spec in found.metrics}
    _add(found, "mine", "mine 1.0", lambda: plugin(plain_names=True))
    assert "already registered by first 1.0" in found.problems[0].reason
    with pytest.raises(UsageError, match="an extractor needs at least one feature"):
        ExtractorFacts(dimensions=0)
