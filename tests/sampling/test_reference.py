"""References for any images, and files of statistics in the usual format."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.data.cell_images import load_cell_images
from zigma_bench.data.images import pixels_digest
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.sampling.reference import open_reference
from zigma_bench.suite import load_suite


def run(*words, results):
    return CliRunner().invoke(app, [str(word) for word in ("quality", *words, "--device", "cpu", "--results", results)])


def pixels(count, shape=(8, 8, 3), seed=0):
    draw = np.random.default_rng(seed)
    return (draw.integers(0, 200, (count, 1, 1, 1)) + draw.integers(0, 56, (count, *shape))).astype(np.uint8)


def test_saved_statistics_measure_as_the_images_do(folder, tmp_path):
    samples, reference, out = folder("a", pixels(20)), folder("b", pixels(30, seed=1)), tmp_path / "b.npz"
    saved = run(
        "--samples",
        reference,
        "--save-statistics",
        out,
        "--metrics",
        "fd-efflite0:size=128",
        "--json",
        results=tmp_path,
    )
    assert saved.exit_code == 0, saved.exception
    assert json.loads(saved.stdout) == {"file": str(out), "metric": "fd-efflite0", "n": 30}
    metrics = "fd-efflite0:size=128,kid-efflite0:size=128"
    found = [
        json.loads(
            run("--samples", samples, "--reference", place, "--metrics", metrics, "--json", results=tmp_path).stdout
        )
        for place in (out, reference)
    ]
    ours, theirs = (said["fd-efflite0"] for said in found)
    assert ours["value"] == pytest.approx(theirs["value"], abs=1e-4)
    assert [(said["n_samples"], said["n_reference"]) for said in (ours, theirs)] == [(20, 30)] * 2
    kid = found[0]["kid-efflite0"]
    assert (kid["status"], kid["value"]) == ("refused", None) and "a mean and a covariance" in kid["reason"]
    assert found[1]["kid-efflite0"]["status"] == "ok"
    assert set(kid) == {"value", "n_samples", "n_reference", "fingerprint", "status", "reason"}


def test_a_batch_of_adm_is_images_and_statistics(folder, tmp_path):
    """`arr_0` beside `mu` and `sigma` of an unnamed extractor: other extractors use the images."""
    images = pixels(12, seed=1)
    np.savez(tmp_path / "adm.npz", arr_0=images, mu=np.zeros(2048), sigma=np.eye(2048), mu_s=np.zeros(3))
    held = open_reference(tmp_path / "adm.npz")
    assert held.images is not None and held.moments is not None and held.count == 12
    samples = folder("a", pixels(12))
    said = [
        json.loads(run("--samples", samples, "--reference", place, "--json", results=tmp_path).stdout)
        for place in (tmp_path / "adm.npz", folder("b", images))
    ]
    assert {name: entry["value"] for name, entry in said[0].items()} == {n: e["value"] for n, e in said[1].items()}


def test_a_figure_of_the_samples_alone_needs_no_reference(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ZIGMA_BENCH_WEIGHTS", str(tmp_path))
    place = folder("a", pixels(4))
    found = run("--samples", place, "--metrics", "is", "--json", results=tmp_path)
    said = json.loads(found.stdout)["is"]
    assert (found.exit_code, said["status"], said["n_samples"], said["n_reference"]) == (3, "refused", 4, None)
    assert "Inception" in said["reason"]
    found = run("--samples", place, "--metrics", "is,fd-efflite0", results=tmp_path)
    assert "give --reference" in str(found.exception) and "fd-efflite0" in str(found.exception)


def test_a_zip_is_a_reference(folder, tmp_path):
    place = folder("a", pixels(6))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(place.iterdir()):
            archive.write(file, file.name)
    assert pixels_digest(open_reference(tmp_path / "a.zip").images) == pixels_digest(open_reference(place).images)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metrics", "kid-efflite0"], "kid-efflite0 has no mean and covariance"),
        (["--metrics", "fd-efflite0,fd-clip"], "one metric"),
        (["--reference", "x"], "uses no reference"),
        (["--save-statistics", "s.npy"], "as .npz"),
        (["--metrics", "fd-efflite0:size=3"], "size"),
    ],
)
def test_words_that_make_no_sense(words, told, folder, tmp_path):
    found = run("--samples", folder("a", pixels(4)), "--save-statistics", tmp_path / "s.npz", *words, results=tmp_path)
    assert isinstance(found.exception, UsageError) and told in str(found.exception), found.exception
    assert not (tmp_path / "s.npz").exists()


def test_statistics_for_fid_need_its_weights_and_images(folder, tmp_path, monkeypatch, inception):
    place, out = folder("a", pixels(4)), tmp_path / "s.npz"
    monkeypatch.setenv("ZIGMA_BENCH_WEIGHTS", str(tmp_path))
    found = run("--samples", place, "--save-statistics", out, results=tmp_path)  # files of other programs are for fid
    assert isinstance(found.exception, NotReady) and "Inception" in str(found.exception)
    inception()
    found = run("--samples", place, "--save-statistics", out, results=tmp_path)
    assert isinstance(found.exception, NotReady) and "at least 2,048 images" in str(found.exception)


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """`inception()`: a file that passes for the published one until its content is read."""
    import dataclasses
    import hashlib

    from zigma_bench.metrics.extractors import weights

    def place():
        published = weights.PUBLISHED["inception"]
        (tmp_path / published.file).write_bytes(b"weights")
        sha256 = hashlib.sha256(b"weights").hexdigest()
        monkeypatch.setitem(weights.PUBLISHED, "inception", dataclasses.replace(published, file="w.pth", sha256=sha256))
        (tmp_path / published.file).rename(tmp_path / "w.pth")

    return place


def test_a_suites_reference_is_transformed_and_named(write_suite, tmp_path):
    plain = write_suite(("{name: digits}", "{name: digits, validation: 80}"))
    held = open_reference(plain)
    turned = tmp_path / "turned.yaml"
    turned.write_text(
        plain.read_text().replace("validation: 80}", "validation: 80, transforms: [{name: blur, sigma: 1.0}]}")
    )
    cell = make_plan(*load_suite(turned), catalogue()).cells[0]
    found = open_reference(turned)
    assert pixels_digest(found.images) == pixels_digest(load_cell_images(cell).reference) != pixels_digest(held.images)
    assert found.facts == {"data": cell.data_text, "split": cell.reference.split}
    assert "blur" in found.facts["data"] and "blur" not in held.facts["data"]


def test_one_of_several_data_sets_is_named(write_suite, folder, tmp_path):
    several = "[{name: digits}, {name: digits, transforms: [{name: rotate, degrees: 90}]}]"
    suite = write_suite(("data: {name: digits}", f"data: {several}"))
    with pytest.raises(UsageError, match=r'several data sets.*--data "digits" or --data "digits, rotate degrees=90.0"'):
        open_reference(suite)
    with pytest.raises(UsageError, match=r"no such data set.*got 'digit'"):
        open_reference(suite, data="digit")
    plain, turned = (open_reference(suite, data=name) for name in ("digits", "digits, rotate degrees=90.0"))
    assert np.array_equal(np.rot90(plain.images.take([0])[0, 0], -1), turned.images.take([0])[0, 0]) or np.array_equal(
        np.rot90(plain.images.take([0])[0, 0]), turned.images.take([0])[0, 0]
    )
    assert plain.facts != turned.facts
    place = folder("a", pixels(6))
    found = run("--samples", place, "--reference", place, "--data", "digits", results=tmp_path)
    assert "only a suite has data sets" in str(found.exception)
