"""A reference file with a mean and a covariance: read, written, and used only for its own extractor."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from feature_figures import measured

from zigma_bench.data.images import Subset
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics import features as features_module
from zigma_bench.metrics import measure as measure_module
from zigma_bench.metrics.apply import measure_metric
from zigma_bench.metrics.extractors import weights
from zigma_bench.metrics.extractors.efflite import efflite
from zigma_bench.metrics.features import Extractor, features_of_images
from zigma_bench.metrics.gaussian import fit_gaussian
from zigma_bench.metrics.moments import read_moments, write_moments
from zigma_bench.metrics.options import EffliteOptions, WeightsOptions
from zigma_bench.metrics.subject import Subject

fd_efflite0 = functools.partial(measured, "fd", "efflite0", EffliteOptions(64))


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(features_module, "_memory", {})


@pytest.fixture
def subject(digits) -> Subject:
    parts = (Subset(digits, np.arange(start, start + 60)) for start in (0, 60))
    return Subject(samples=next(parts), reference=next(parts), reference_facts={"data": "digits"})


def test_a_file_written_here_gives_the_figure_of_its_images(subject, tmp_path):
    extractor = efflite("efflite0", 64)
    write_moments(
        tmp_path / "r.npz", fit_gaussian(features_of_images(subject.reference, extractor)), extractor.fingerprint()
    )
    moments = read_moments(tmp_path / "r.npz")
    alone = dataclasses.replace(subject, reference=None, moments=moments)
    of_images, of_file = fd_efflite0(subject), fd_efflite0(alone)
    assert of_file.value == pytest.approx(of_images.value, abs=1e-4)
    assert of_file.fingerprint["n_reference"] == 60
    assert of_file.fingerprint["reference"] == {"data": "digits", "statistics_sha256": moments.sha256}
    with np.load(tmp_path / "r.npz") as held:  # as other programs read it
        x = features_of_images(subject.reference, extractor).astype(np.float64)
        assert held["mu"] == pytest.approx(x.mean(0), abs=1e-9)
        assert held["sigma"] == pytest.approx(np.cov(x, rowvar=False), abs=1e-9)


def test_the_file_is_used_for_its_own_extractor_and_images_for_others(subject, tmp_path):
    extractor = efflite("efflite0", 64)
    write_moments(
        tmp_path / "r.npz", fit_gaussian(features_of_images(subject.reference, extractor)), extractor.fingerprint()
    )
    moments = read_moments(tmp_path / "r.npz")
    larger = functools.partial(measured, "fd", "efflite0", EffliteOptions(128))
    refused = measure_metric(
        "fd-efflite0", {"size": 128}, dataclasses.replace(subject, reference=None, moments=moments)
    )
    assert refused.status == "refused"
    assert "differ in extractor, resize" in refused.reason and "efflite0-64" in refused.reason
    assert larger(dataclasses.replace(subject, moments=moments)) == larger(subject)


@pytest.mark.parametrize("kind", ["kid", "precision", "recall", "density", "coverage"])
def test_what_compares_images_one_by_one_is_refused_with_the_reason(kind, subject, tmp_path):
    extractor = efflite("efflite0", 64)
    write_moments(
        tmp_path / "r.npz", fit_gaussian(features_of_images(subject.reference, extractor)), extractor.fingerprint()
    )
    alone = dataclasses.replace(subject, reference=None, moments=read_moments(tmp_path / "r.npz"))
    found = measure_metric(f"{kind}-efflite0", {"size": 64}, alone)
    assert (found.name, found.status, found.value) == (f"{kind}-efflite0", "refused", None)
    assert "a mean and a covariance" in found.reason and "use images as the reference" in found.reason


def test_the_fields_files_are_for_the_published_inception_alone(subject, tmp_path, inception_weights, monkeypatch):
    """`mu` and `sigma` as ADM and pytorch-fid write them: 2,048 features, without the name of the extractor."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2600, 2048)) * 0.3 + 0.4
    np.savez(tmp_path / "adm.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False), mu_s=np.zeros(3), sigma_s=np.eye(3))
    moments = read_moments(tmp_path / "adm.npz")
    alone = dataclasses.replace(subject, reference=None, moments=moments)
    with pytest.raises(NotReady, match=r"doesn't name.*use images as the reference"):
        fd_efflite0(alone)
    options = WeightsOptions(str(inception_weights))
    with pytest.raises(NotReady, match="2048 features"):  # other weights than the published ones
        measured("fd", "inception", options, alone)
    sha8 = weights.file_sha256(inception_weights)[:8]
    published = dataclasses.replace(weights.PUBLISHED["inception"], sha256=sha8)
    monkeypatch.setitem(weights.PUBLISHED, "inception", published)
    few = measured("fd", "inception", options, alone)
    assert (few.status, few.fingerprint["n_reference"]) == ("refused", None)
    assert "2,048" in few.reason
    y = (draw.standard_normal((2100, 2048)) * 0.3 + 0.5).astype(np.float32)
    monkeypatch.setattr(measure_module, "features_of_images", lambda images, *rest, **more: y)
    monkeypatch.setattr(weights, "FID_MINIMUM", 50)
    found = measured("fd", "inception", options, alone)
    assert (found.name, found.status) == ("fid", "ok")
    s, t = np.cov(x, rowvar=False), np.cov(y.astype(np.float64), rowvar=False)
    root = np.linalg.cholesky(s)
    trace = np.sqrt(np.linalg.eigvalsh(root.T @ t @ root)).sum()  # the product's eigenvalues, of a symmetric matrix
    shift = ((x.mean(0) - y.astype(np.float64).mean(0)) ** 2).sum()
    assert found.value == pytest.approx(shift + np.trace(s) + np.trace(t) - 2 * trace, rel=1e-6)


def good():
    x = np.random.default_rng(1).standard_normal((20, 4))
    return {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigma": None}, "has no valid sigma"),
        ({"mu": np.array([0.0, np.nan, 0, 0])}, "mu.*finite"),
        ({"sigma": np.arange(16.0).reshape(4, 4)}, "symmetric"),
        ({"sigma": np.eye(5)}, r"mu \[4\] and sigma \[5, 5\]"),
        ({"mu": np.arange(4)}, "mu.*int64"),
        ({"extractor": np.array("[]"), "count": np.array(3)}, "doesn't name its extractor"),
        ({"extractor": np.array("{}")}, "doesn't name its extractor"),
    ],
)
def test_what_is_no_mean_and_covariance_is_named(change, words, tmp_path):
    arrays = {name: value for name, value in {**good(), **change}.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UsageError, match=rf"bad\.npz.*{words}|{words}.*bad\.npz"):
        read_moments(tmp_path / "bad.npz")


def test_a_file_of_images_contains_no_moments(tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    assert read_moments(tmp_path / "images.npz") is None


def test_a_reference_is_fitted_once(subject, tmp_path, monkeypatch):
    """The Gaussian is cached by content: the same pixels and extractor share it; anything else doesn't."""
    from zigma_bench.metrics import reference as module
    from zigma_bench.metrics.reference import reference_gaussian

    fits = []
    monkeypatch.setattr(module, "fit_gaussian", lambda x: fits.append(len(x)) or fit_gaussian(x))
    first = reference_gaussian(subject.reference, efflite("efflite0", 64), cache=tmp_path)
    again = reference_gaussian(Subset(subject.reference, np.arange(60)), efflite("efflite0", 64), cache=tmp_path)
    assert fits == [60]
    assert np.array_equal(first.root, again.root) and np.array_equal(first.mean, again.mean) and again.count == 60
    reference_gaussian(Subset(subject.reference, np.arange(59)), efflite("efflite0", 64), cache=tmp_path)
    reference_gaussian(Subset(subject.reference, np.arange(60)[::-1].copy()), efflite("efflite0", 64), cache=tmp_path)
    other: Extractor = dataclasses.replace(efflite("efflite0", 64), resize="another")
    reference_gaussian(subject.reference, other, cache=tmp_path)
    assert fits == [60, 59, 60, 60]
