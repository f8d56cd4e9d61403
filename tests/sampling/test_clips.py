"""`quality --samples` of clips: the same values as a cell on the same clips, and refused folders of videos."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.data.images import ArrayImages, pixels_digest
from zigma_bench.data.sources.moving_digits import load
from zigma_bench.data.sources.options import MovingDigitsOptions
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.metrics.options import EffliteOptions
from zigma_bench.metrics.subject import Subject
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.sampling import clips as module
from zigma_bench.sampling.images import open_images
from zigma_bench.sampling.sheets import save_film

av = pytest.importorskip("av")
METRICS = ["--metrics", "frame-fd-efflite0,frame-kid-efflite0"]


def run(*words, results):
    return CliRunner().invoke(app, [str(word) for word in ("quality", *words, "--device", "cpu", "--results", results)])


def clips(count=6, frames=5, height=16, width=24, channels=3, seed=0):
    """[N, T, C, H, W], smooth enough for a lossy codec."""
    small = np.random.default_rng(seed).integers(0, 256, (count, frames, channels, height // 8, width // 8), np.uint8)
    return small.repeat(8, 3).repeat(8, 4)


def write_video(path: Path, clip, codec="ffv1", bit_rate=None, **options) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        stream.height, stream.width, stream.pix_fmt = *clip.shape[2:], "bgr0" if codec == "ffv1" else "yuv420p"
        for frame in clip:
            pixels = np.ascontiguousarray(frame.repeat(4 - len(frame), 0)[:3].transpose(1, 2, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def videos(tmp_path):
    """`videos(name, clips, suffix)`: a folder of video files, or of animations."""

    def write(name, found, suffix=".mkv", **how):
        place = tmp_path / name
        place.mkdir()
        for index, clip in enumerate(found):
            path = place / f"{index:07d}{suffix}"
            if suffix == ".webp":
                save_film(path, clip)
            else:
                write_video(path, clip, **how)
        return place

    return write


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".webp"])
def test_a_folder_contains_the_clips_unchanged(videos, suffix, monkeypatch):
    given = clips()
    place = videos("a", given, suffix)
    assert np.array_equal(open_images(place).take(range(6)), given)
    monkeypatch.setattr(module, "MEMORY_BYTES", 0)
    found = open_images(place)
    assert not isinstance(found, ArrayImages) and len(found) == 6
    assert np.array_equal(found.take([4, 0]), given[[4, 0]])


@pytest.mark.parametrize("suffix", [".mkv", ".webp"])
def test_clips_without_colour_have_one_channel(videos, suffix, monkeypatch):
    given = clips(channels=1)
    place = videos("a", given, suffix)
    for limit in (module.MEMORY_BYTES, 0):
        monkeypatch.setattr(module, "MEMORY_BYTES", limit)
        assert np.array_equal(open_images(place).take(range(6)), given)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_lossy_video_is_near_what_was_written(videos, suffix):
    given = clips(frames=16)
    found = open_images(videos("a", given, suffix, codec="mpeg4", bit_rate=4_000_000)).take(range(6))
    assert found.shape == given.shape and np.abs(found.astype(int) - given).mean() < 8


def test_arrays_of_clips(tmp_path):
    given = clips()
    np.savez(tmp_path / "a.npz", given.transpose(0, 1, 3, 4, 2))
    (tmp_path / "cell").mkdir()
    np.save(tmp_path / "cell" / "samples.npy", given)
    assert np.array_equal(open_images(tmp_path / "a.npz").take([2]), given[[2]])
    assert pixels_digest(open_images(tmp_path / "cell")) == pixels_digest(ArrayImages(given))


def test_the_figures_are_those_of_the_clips_in_memory(videos, tmp_path):
    splits = load(MovingDigitsOptions(frames=4, resolution=16, clips=60, validation=30))
    samples, reference = (images.take(range(30)) for images in (splits.validation, splits.train))
    places = videos("a", samples, ".webp"), videos("b", reference)
    found = run("--samples", places[0], "--reference", places[1], "--json", results=tmp_path / "r")
    assert found.exit_code == 0, found.exception
    told = json.loads(found.stdout)
    assert sorted(told) == [
        "frame-fd-efflite0",
        "frame-kid-efflite0",
    ]  # the default metrics of clips
    subject = Subject(samples=ArrayImages(samples), reference=ArrayImages(reference))
    expected = catalogue().get("metric", "frame-fd-efflite0").load()(EffliteOptions(), subject)
    figure = told["frame-fd-efflite0"]
    assert figure["value"] == expected.value
    assert (figure["n_samples"], figure["n_reference"]) == (120, 120) and figure["fingerprint"]["reference"][
        "frames"
    ] == 4
    words = run("--samples", places[0], "--reference", places[1], results=tmp_path / "r").stdout
    assert "30 clips of 4 frames against 30" in words


def test_samples_of_a_suite_of_clips_against_its_reference(videos, write_suite, tmp_path):
    suite = write_suite(
        ("{name: digits}", "{name: moving-digits, frames: 3, resolution: 12, clips: 80, validation: 40}"),
        ("  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n", ""),
        ("[raster, {name: zigzag, paths: 8}]", "[raster]"),
        ("[val-loss]", "[frame-fd-efflite0, frame-kid-efflite0]"), ("{count: 32", "{count: 30"),
    )  # fmt: skip
    held = load(MovingDigitsOptions(frames=3, resolution=12, clips=80, validation=40)).validation.take(range(30))
    found = run("--samples", videos("a", held, ".webp"), "--reference", suite, *METRICS, results=tmp_path / "r")
    assert found.exit_code == 0, found.exception
    colour = held.repeat(3, 2)
    colour[:, :, 0] = 0
    found = run("--samples", videos("b", colour, ".webp"), "--reference", suite, *METRICS, results=tmp_path / "r")
    assert found.exit_code == 0, found.exception  # grey clips are compared with coloured ones


def test_fvd_needs_its_weights_and_measures_with_a_file(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("ZIGMA_BENCH_WEIGHTS", str(tmp_path / "none"))
    place = videos("a", clips(4))
    words = ["--samples", place, "--reference", place, "--metrics"]
    refused = run(*words, "fvd", results=tmp_path / "r")
    assert refused.exit_code == NotReady.exit_code and "i3d_torchscript.pt" in refused.stdout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(Mean()).save(str(tmp_path / "mean.pt"))
    found = run(*words, f"fvd:weights={tmp_path / 'mean.pt'}", "--json", results=tmp_path / "r")
    assert found.exit_code == 0, (found.stdout, found.exception)
    ((name, figure),) = json.loads(found.stdout).items()
    assert name.startswith("fd-i3d-") and figure["value"] == pytest.approx(0, abs=1e-6) and figure["n_samples"] == 4


class Mean(torch.nn.Module):
    """Two features of a clip."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3, 4)), x.std((1, 2, 3, 4))], dim=1)


def refused(path, error, *words):
    with pytest.raises(error) as caught:
        open_images(path)
    for word in words:
        assert word in str(caught.value), caught.value


def test_folders_of_clips_that_are_refused(videos, tmp_path):
    mixed = videos("mixed", clips(2))
    Image.fromarray(clips(1)[0, 0].transpose(1, 2, 0)).save(mixed / "still.png")
    refused(mixed, UsageError, "clips and single images", "0000000.mkv", "still.png")
    still = videos("still", clips(2), ".webp")
    Image.fromarray(clips(1)[0, 0].transpose(1, 2, 0)).save(still / "one.webp")
    refused(still, UsageError, "clips and single images", "one.webp")
    long = videos("long", clips(2))
    write_video(long / "0000009.mkv", clips(1, frames=7)[0])
    refused(long, BadImage, "0000009.mkv", "a different length", "5 frames", "got 7")
    wide = videos("wide", clips(2))
    write_video(wide / "0000009.mkv", clips(1, width=32)[0])
    refused(wide, BadImage, "0000009.mkv", "a different size", "24 x 16", "32 x 16")
    named = videos("named", clips(2))
    (named / "0000009.mp4").write_text("no video " * 99)
    refused(named, BadImage, "0000009.mp4", "can't be decoded")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(long / "0000000.mkv", "0000000.mkv")
    refused(tmp_path / "a.zip", UsageError, "in a zip can't be read", "0000000.mkv", "unpack")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(still / "0000000.webp", "0000000.webp")
    refused(tmp_path / "b.zip", UsageError, "in a zip can't be read", "0000000.webp")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        (".mp4", {"codec": "mpeg4", "movflags": "faststart"}),  # the index at the front: a player shows what is there
        (".mp4", {"codec": "mpeg4"}),
        (".avi", {"codec": "mpeg4"}),
        (".mkv", {}),
        (".webp", {}),
    ],
)
def test_a_file_that_is_cut_off_is_named(videos, suffix, how, part):
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 3, 16, 24), np.uint8)
    place = videos("a", noise, suffix, **how)
    cut = place / f"0000002{suffix}"
    cut.write_bytes(cut.read_bytes()[: int(part * cut.stat().st_size)])
    refused(place, BadImage, cut.name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metrics", "fd-efflite0"], "use frame-fd-efflite0"),
        (["--metrics", "fid"], "clips of 5 frames"),
        (["--save-statistics", "a.npz", "--metrics", "fd-efflite0"], "statistics can't be written for clips"),
    ],
)
def test_metrics_of_images_are_not_those_of_clips(videos, words, told, tmp_path):
    place = videos("a", clips(4))
    more = [] if "--save-statistics" in words else ["--reference", place]
    found = run("--samples", place, *more, *words, results=tmp_path / "r")
    assert isinstance(found.exception, UsageError) and told in str(found.exception), found.exception


def test_clips_and_images_are_not_compared(videos, folder, tmp_path):
    place, images = videos("a", clips(4)), folder("b", clips(4)[:, 0].transpose(0, 2, 3, 1))
    found = run("--samples", place, "--reference", images, *METRICS, results=tmp_path / "r")
    assert isinstance(found.exception, UsageError) and "differ in shape" in str(found.exception)
    found = run("--samples", images, "--reference", images, *METRICS, results=tmp_path / "r")
    assert isinstance(found.exception, UsageError) and "single images" in str(found.exception)
    other = videos("c", clips(4, frames=6))
    found = run("--samples", place, "--reference", other, *METRICS, results=tmp_path / "r")
    assert isinstance(found.exception, UsageError) and "differ in shape" in str(found.exception)
