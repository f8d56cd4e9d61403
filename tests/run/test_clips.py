"""Suites on clips: plans and errors; what works for images also works for clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zigma_bench.backbones.build import build_network
from zigma_bench.data.cell_images import load_cell_images
from zigma_bench.data.images import ArrayImages, Splits
from zigma_bench.data.transforms.apply import apply_transforms
from zigma_bench.diffusion.guidance import with_guidance
from zigma_bench.errors import ZigmaBenchError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.sealed import Parts
from zigma_bench.sampling.cell_images import sample_images
from zigma_bench.sampling.sheets import read_film, save_film, write_sheets
from zigma_bench.suite import Guidance, Train, load_suite
from zigma_bench.system.device import find_device
from zigma_bench.training.step import draw_batch

DATA = ("data: {name: digits}", "data: {name: moving-digits, frames: 3, resolution: 12, clips: 160, validation: 80}")
SCANS = ("[raster, {name: zigzag, paths: 8}]", "[raster, {name: zigzag-video, order: st}]")
NO_DIT = ("  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n", "")
CPU = find_device("cpu")


def plan(path, **rest):
    suite, source = load_suite(path)
    return make_plan(suite, source, catalogue(), **rest)


@pytest.fixture
def cells(write_suite):
    return plan(write_suite(DATA, SCANS, NO_DIT)).cells


def test_a_cell_of_clips_has_tokens_of_all_frames_and_its_own_identity(cells, write_suite):
    first = cells[0]
    assert first.shape == (3, 1, 12, 12) and first.tokens == 3 * 6 * 6
    longer = plan(write_suite((DATA[0], DATA[1].replace("frames: 3", "frames: 4")), SCANS, NO_DIT)).cells[0]
    for stage in first.stages:
        assert first.identity(stage, device_model="a") != longer.identity(stage, device_model="a")
    picture = first.model_copy(update={"frames": 1})
    assert '"shape": [1, 12, 12]' in str(picture._facts("train", "a")).replace("'", '"')


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ([DATA, SCANS], ["dit and sit can only run on single images", "use zigma, vision-mamba or hybrid"]),
        ([DATA, NO_DIT], ["zigzag", "frame"]),
        ([DATA, SCANS, NO_DIT, ("[val-loss]", "[fd-efflite0]")], ["measures images", "use frame-fd-efflite0"]),
        ([NO_DIT, ("[val-loss]", "[frame-fd-efflite0]")], ["measures frames", "single images", "use fd-efflite0"]),
        ([NO_DIT, ("[val-loss]", "[fvd]")], ["measures clips"]),
        ([NO_DIT, SCANS], ["video"]),
    ],
)  # fmt: skip
def test_what_takes_no_clips_or_clips_alone_is_refused_by_the_plan(write_suite, replacements, words):
    with pytest.raises(ZigmaBenchError) as caught:
        plan(write_suite(*replacements))
    for word in words:
        assert word in str(caught.value)


def test_the_minimum_of_a_metric_of_frames_counts_frames(write_suite):
    text = "[frame-fid, frame-kid]"
    few = plan(write_suite(DATA, SCANS, NO_DIT, ("[val-loss]", text)))
    assert any(
        "frame-fid needs at least 2,048 images" in item.what and "32 clips of 3" in item.what for item in few.missing
    )
    enough = ("sample: {count: 32", "sample: {count: 700")
    clips = (DATA[0], "data: {name: moving-digits, frames: 3, resolution: 12, validation: 800}")
    many = plan(write_suite(clips, SCANS, NO_DIT, ("[val-loss]", text), enough))
    assert not any("needs at least" in item.what for item in many.missing)


def test_the_same_clips_for_any_batch(cells, tmp_path):
    network = build_network(cells[0], "cpu").eval()
    drawn = []
    for batch in (16, 5):
        sample = cells[0].sample.model_copy(update={"count": 16, "batch": batch})
        cell = cells[0].model_copy(update={"sample": sample})
        parts = Parts(tmp_path / str(batch), {})
        pixels, _ = sample_images(cell, parts, network, CPU, lambda done, text: None, lambda: False)
        drawn.append(pixels)
    assert drawn[0].shape == (16, 3, 1, 12, 12)
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 1


def test_a_flipped_clip_is_flipped_in_all_frames(cells):
    images = load_cell_images(cells[0]).train
    plain, flipped = (
        draw_batch(images, Train(batch=16, flip=flip), 0, 0, torch.device("cpu")) for flip in (False, True)
    )
    ways = set()
    for clip, other in zip(plain.x1, flipped.x1, strict=True):
        assert torch.equal(other, clip) or torch.equal(other, clip.flip(-1))
        ways.add(torch.equal(other, clip))
    assert ways == {True, False}


def test_transforms_change_each_frame_as_an_image():
    clips = ArrayImages(np.random.default_rng(0).integers(0, 256, (4, 3, 1, 8, 8), dtype=np.uint8))
    turned = apply_transforms(Splits(clips, clips), [lambda pixels: np.rot90(pixels, axes=(2, 3)).copy()]).train
    assert np.array_equal(turned.take([2])[0, 1, 0], np.rot90(clips.pixels[2, 1, 0]))


def test_guidance_of_the_first_channels_acts_on_channels_and_not_on_frames():
    def network(x, t, y):
        return torch.ones_like(x) * y.view(-1, 1, 1, 1, 1)

    x, t, y = torch.zeros(2, 5, 4, 3, 3), torch.full((2,), 0.5), torch.ones(2)
    said = with_guidance(network, y, torch.zeros(2), Guidance(scale=3.0, channels="first-three"))(x, t)
    assert (said[:, :, :3] == 3).all() and (said[:, :, 3:] == 1).all()


def test_films_and_strips_contain_every_frame_unchanged(tmp_path):
    clips = np.random.default_rng(0).integers(0, 256, (3, 5, 3, 60, 50), dtype=np.uint8)
    save_film(tmp_path / "one.webp", clips[0])
    assert np.array_equal(read_film(tmp_path / "one.webp"), clips[0])
    write_sheets(tmp_path, clips)
    frames = read_film(tmp_path / "clips.webp")
    assert frames.shape == (5, 3, 62, 8 * 52)
    assert np.array_equal(frames[4][:, 1:61, 53:103], clips[1, 4])
    from PIL import Image

    with Image.open(tmp_path / "grid.png") as strip:
        pixels = np.asarray(strip).transpose(2, 0, 1)
    assert pixels.shape == (3, 3 * 62, 5 * 52)
    assert np.array_equal(pixels[:, 63:123, 2 * 52 + 1 : 2 * 52 + 51], clips[1, 2])
