"""`quality --samples`: the same values as a cell on the same images, and refused sets of images."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.data.images import pixels_digest
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.run.stages.context import StageContext
from zigma_bench.run.stages.run import run_due_stages
from zigma_bench.sampling.images import open_images
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device


def run(*words, results):
    return CliRunner().invoke(app, [str(word) for word in ("quality", *words, "--device", "cpu", "--results", results)])


def pixels(count, shape=(8, 8, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_a_zip_and_an_npz_are_the_same_images(channels, folder, tmp_path):
    images = pixels(5, (6, 8, channels))
    place = folder("a", images)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(place.iterdir()):
            archive.write(file, file.name)
    np.savez(tmp_path / "a.npz", images)
    opened = [open_images(path) for path in (place, tmp_path / "a.zip", tmp_path / "a.npz")]
    assert len({pixels_digest(found) for found in opened}) == 1
    assert np.array_equal(opened[0].take([3, 1]), images[[3, 1]].transpose(0, 3, 1, 2))


def test_figures_are_those_of_a_cell(write_suite, tmp_path):
    """A cell's samples, as the cell left them and as PNGs, against its suite: exactly the same values and
    fingerprints."""
    suite = write_suite(
        ("{name: digits}", "{name: digits, validation: 80}"), ("{split: train}", "{split: validation}"),
        ("quality: [val-loss]", "quality: [fd-efflite0, kid-efflite0]"),
    )  # fmt: skip
    cells = make_plan(*load_suite(suite), catalogue()).cells
    floor = next(cell for cell in cells if cell.role == "floor")
    life = StageContext(floor, tmp_path / "cell", tmp_path, Device("cpu", "-"), lambda event: None, lambda: False)
    run_due_stages(life, ("sample", "quality"))
    record = json.loads((life.stage_folder("quality") / "record.json").read_text())
    samples, place = life.stage_folder("sample"), tmp_path / "pictures"
    place.mkdir()
    for index, image in enumerate(np.load(samples / "samples.npy")):
        Image.fromarray(image[0]).save(place / f"{index:03d}.png")
    for given in (place, samples):
        found = run("--samples", given, "--reference", suite, "--json", results=tmp_path / "results")
        assert found.exit_code == 0, found.stderr
        said = json.loads(found.stdout)
        assert len(record["measurements"]) == len(said) == 2
        for measured in record["measurements"]:
            assert said[measured["name"]]["value"] == measured["value"]
            assert said[measured["name"]]["fingerprint"] == measured["fingerprint"]
        assert (said["fd-efflite0"]["n_samples"], said["fd-efflite0"]["n_reference"]) == (32, 48)


def test_fid_is_refused_with_its_reason(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ZIGMA_BENCH_WEIGHTS", str(tmp_path))
    place = folder("a", pixels(4))
    words = ("--samples", place, "--reference", place, "--json", "--metrics", "fid,fd-efflite0:size=128")
    found = run(*words, results=tmp_path / "results")
    said = json.loads(found.stdout)
    assert found.exit_code == NotReady.exit_code
    assert (said["fid"]["status"], said["fid"]["value"]) == ("refused", None)
    assert str(tmp_path) in said["fid"]["reason"] and "Inception" in said["fid"]["reason"]
    assert said["fd-efflite0"]["status"] == "ok" and said["fd-efflite0"]["value"] == pytest.approx(0, abs=1e-4)
    assert "128" in said["fd-efflite0"]["fingerprint"]["resize"]


def test_an_efficiency_suite_is_no_reference(root, folder, tmp_path):
    words = ("--samples", folder("a", pixels(4)), "--reference", root / "suites" / "efficiency.yaml")
    found = run(*words, results=tmp_path / "results")
    assert isinstance(found.exception, UsageError) and "an efficiency suite has no data" in str(found.exception)


def test_too_few_images_are_a_refusal(folder, tmp_path):
    place = folder("a", pixels(3))
    words = ("--samples", place, "--reference", place, "--metrics", "kid-efflite0")
    found = run(*words, results=tmp_path / "results")
    assert found.exit_code == NotReady.exit_code and "needs at least 4 images" in found.stdout


def test_images_that_are_refused(folder, tmp_path):
    good = folder("good", pixels(2))

    def told(path, error, *words):
        with pytest.raises(error) as caught:
            pixels_digest(open_images(path))
        for word in (path.name, *words):
            assert word in str(caught.value), caught.value

    other = folder("other", pixels(2))
    Image.fromarray(pixels(1, (8, 9, 3))[0]).save(other / "wide.png")
    told(other, BadImage, "wide.png", "a different size", "8 x 8", "9 x 8")
    text = folder("text", pixels(2))
    (text / "001.png").write_text("no image at all")
    told(text, BadImage, "001.png", "not one of PNG")
    cut = folder("cut", pixels(2, (64, 64, 3)))
    (cut / "001.png").write_bytes((cut / "001.png").read_bytes()[:2000])
    told(cut, BadImage, "001.png")
    (tmp_path / "empty").mkdir()
    told(tmp_path / "empty", UsageError, "no images")
    np.savez(tmp_path / "named.npz", images=pixels(2))
    told(tmp_path / "named.npz", UsageError, "no array arr_0", "images")
    np.savez(tmp_path / "floats.npz", pixels(2).astype(float))
    told(tmp_path / "floats.npz", UsageError, "uint8", "float64 [2, 8, 8, 3]")
    np.savez(tmp_path / "objects.npz", np.array([{}], dtype=object))
    told(tmp_path / "objects.npz", UsageError, "can't be read")
    (tmp_path / "not.npz").write_text("x")
    told(tmp_path / "not.npz", UsageError, "can't be read")
    (tmp_path / "not.zip").write_text("x")
    told(tmp_path / "not.zip", UsageError, "can't be read")
    told(good / "000.png", UsageError, "expected a folder")
    told(tmp_path / "absent", NotReady, "no such file")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metrics", "val-loss"], "measures a network"),
        (["--metrics", "fd-eflite0"], "did you mean 'fd-efflite0'"),
        (["--metrics", "fid,fid"], "is listed twice"),
        (["--metrics", "fd-efflite0:size=65"], "size"),
        (["--set", "a=1"], "--set needs a suite"),
        (["suite.yaml"], "leave one of them out"),
    ],
)
def test_words_that_make_no_sense(words, told, folder, tmp_path):
    place = folder("a", pixels(4))
    found = run("--samples", place, "--reference", place, *words, results=tmp_path / "results")
    assert isinstance(found.exception, UsageError) and told in str(found.exception), found.exception


def test_samples_and_reference_belong_together(folder, tmp_path):
    place, small = folder("a", pixels(4)), folder("b", pixels(4, (4, 4, 3)))
    found = run("--samples", place, "--reference", small, results=tmp_path)
    assert "differ in shape" in str(found.exception) and str(small) in str(found.exception)
    assert "give --reference" in str(run("--samples", place, results=tmp_path).exception)
    assert "--reference needs --samples" in str(run("--reference", place, results=tmp_path).exception)
    assert "nothing to measure" in str(run(results=tmp_path).exception)
