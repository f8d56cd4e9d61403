"""FID and KID: torch-fidelity's values on folders of PNG, the name by the file's hash, and refused files."""

from __future__ import annotations

import dataclasses
import functools
import pickle

import numpy as np
import pytest
import torch
from feature_figures import fid, measured

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import NotReady
from zigma_bench.metrics.extractors import weights
from zigma_bench.metrics.extractors.inception import NAME, inception
from zigma_bench.metrics.options import InceptionOptions
from zigma_bench.metrics.subject import Subject

kid_inception = functools.partial(measured, "kid", "inception")
inception_path = functools.partial(weights.weights_path, "inception")

PUBLISHED = weights.PUBLISHED["inception"]


@pytest.fixture
def folders(tmp_path):
    """Two folders of 12 and 9 colour PNGs of 16 x 16, and the same images as arrays."""
    from PIL import Image

    random = np.random.default_rng(0)
    sets = []
    for name, count in (("samples", 12), ("reference", 9)):
        base = random.integers(0, 256, (count, 3, 1, 1))
        pixels = np.clip(base + random.normal(0, 40, (count, 3, 16, 16)), 0, 255).astype(np.uint8)
        (tmp_path / name).mkdir()
        for index, image in enumerate(pixels):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name / f"{index:03}.png")
        sets.append(pixels)
    return tmp_path, Subject(samples=ArrayImages(sets[0]), reference=ArrayImages(sets[1]))


def test_the_figures_are_torch_fidelitys_on_the_same_folders(folders, inception_weights, capfd):
    from torch_fidelity import calculate_metrics
    from torch_fidelity.defaults import DEFAULTS

    folder, subject = folders
    arguments = {
        "input1": str(folder / "samples"), "input2": str(folder / "reference"), "fid": True, "kid": True, "isc": True,
        "prc": True, "kid_subset_size": 4, "feature_extractor": NAME,
        "feature_extractor_weights_path": str(inception_weights), "cuda": False, "cache": False, "verbose": False,
        "save_cpu_ram": True,
    }  # fmt: skip
    assert set(arguments) <= set(DEFAULTS)
    theirs = calculate_metrics(**arguments)
    capfd.readouterr()
    options = InceptionOptions(str(inception_weights))
    keys = {
        "fd": "frechet_inception_distance", "kid": "kernel_inception_distance_mean", "is": "inception_score_mean",
        "precision": "precision", "recall": "recall",
    }  # fmt: skip
    for kind, key in keys.items():
        found = measured(kind, "inception", options, subject)
        assert abs(theirs[key]) > 0.01  # the comparison is meaningful
        assert abs(found.value - theirs[key]) <= max(1e-4, 1e-6 * abs(theirs[key])), (key, found.value)
        if kind == "is":
            assert found.name.startswith("is-inception-")
            assert "reference" not in found.fingerprint and "n_reference" not in found.fingerprint
            assert float(np.std(found.raw)) == pytest.approx(theirs["inception_score_std"], abs=1e-4)
    assert capfd.readouterr() == ("", "")


def test_another_file_gives_another_name_and_no_minimum(folders, inception_weights):
    options = InceptionOptions(str(inception_weights))
    sha = weights.file_sha256(inception_weights)
    assert weights.fid_minimum(options) == 2
    _, subject = folders
    found = fid(options, subject)
    assert (found.name, found.status) == (f"fd-inception-{sha[:8]}", "ok")
    assert found.fingerprint["weights_sha256"] == sha
    assert kid_inception(options, subject).name == f"kid-inception-{sha[:8]}"


def test_only_the_published_hash_is_called_fid_and_is_refused_below_2048(folders, inception_weights, monkeypatch):
    sha8 = weights.file_sha256(inception_weights)[:8]
    monkeypatch.setitem(weights.PUBLISHED, "inception", dataclasses.replace(PUBLISHED, sha256=sha8))
    options = InceptionOptions(str(inception_weights))
    _, subject = folders
    assert weights.fid_minimum(options) == 2048
    found = fid(options, subject)
    assert (found.name, found.status, found.value) == ("fid", "refused", None)
    assert "2,048" in found.reason
    assert kid_inception(options, subject).name == "kid"
    for kind in ("precision", "recall", "density", "coverage", "is"):
        found = measured(kind, "inception", options, subject)
        assert (found.name, found.status) == (kind, "ok")
    extrapolated = measured("fd-infinity", "inception", options, subject)
    assert (extrapolated.name, extrapolated.status) == ("fid-infinity", "refused")
    assert "4,096" in extrapolated.reason


def test_the_published_name_is_torch_fidelitys():
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert URL_INCEPTION_V3.rpartition("/")[2] == PUBLISHED.file
    assert PUBLISHED.file.endswith(f"-{PUBLISHED.sha256}.pth")


def test_where_the_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    options = InceptionOptions()
    assert inception_path(options) == tmp_path / ".cache/zigma-bench/weights" / PUBLISHED.file
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "kept"))
    assert inception_path(options) == tmp_path / "kept" / PUBLISHED.file
    assert inception_path(InceptionOptions("~/mine.pth")) == tmp_path / "mine.pth"
    (missing,) = weights.inception_missing(options)
    assert str(tmp_path / "kept") in missing.what
    assert all(word in missing.do for word in ("6726825d", PUBLISHED.file, "'weights'", "ZIGMA_BENCH_WEIGHTS"))
    assert weights.fid_minimum(options) == 2048
    with pytest.raises(NotReady, match="no Inception v3 weights"):
        fid(options, Subject())


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    "content",
    [b"", b"no weights at all", b"junk\n", pickle.dumps({"x": Evil()}), "tensor", "unlike"],
    ids=["empty", "text", "opcodes", "pickle", "tensor", "unlike"],
)
def test_a_file_of_another_kind_is_named_and_never_run(content, tmp_path, capfd):
    path = tmp_path / "bad.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"tensor": torch.zeros(3), "unlike": {"Conv2d_1a_3x3.conv.weight": torch.zeros(3)}}[content], path)
    with pytest.raises(NotReady, match=r"bad\.pth"):
        inception(path).build()
    assert "must not run" not in capfd.readouterr().out


def test_a_pickle_saved_by_torch_is_never_run(tmp_path, capfd):
    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(NotReady, match=r"evil\.pth"):
        inception(tmp_path / "evil.pth").build()
    assert "must not run" not in capfd.readouterr().out


def test_a_changed_file_has_another_hash(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"a")
    first = weights.file_sha256(path)
    path.write_bytes(b"bb")
    assert weights.file_sha256(path) != first


def test_a_file_that_is_not_its_name_is_refused_with_both_hashes(inception_weights, tmp_path, monkeypatch):
    """With the published file name it would be a broken download; with another name it is a file of other weights."""
    path = tmp_path / PUBLISHED.file
    path.write_bytes(inception_weights.read_bytes())
    options = InceptionOptions(str(path))
    (missing,) = weights.inception_missing(options)
    sha = weights.file_sha256(path)
    assert all(word in missing.what for word in (str(path), "starts with 6726825d", f"got {sha}"))
    with pytest.raises(NotReady, match=f"expected a sha256 that starts with 6726825d; got {sha}"):
        fid(options, Subject())
    from zigma_bench.metrics.apply import measure_metric

    found = measure_metric("fid", {"weights": str(path)}, Subject())
    assert (found.status, found.value) == ("refused", None)
    assert sha in found.reason
    named = tmp_path / f"mine-{sha[:12]}.pth"
    path.rename(named)
    assert weights.inception_missing(InceptionOptions(str(named))) == ()


def test_grey_images_are_taken(inception_weights, noise):
    subject = Subject(samples=noise(4), reference=noise(5, seed=1))
    assert fid(InceptionOptions(str(inception_weights)), subject).status == "ok"
