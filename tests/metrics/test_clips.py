"""Metrics of clips: those of their frames, and the Frechet distance on features of a user's TorchScript file."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from feature_figures import measured, of_frames

from zigma_bench.data.images import ArrayImages
from zigma_bench.data.sources.moving_digits import load
from zigma_bench.data.sources.options import MovingDigitsOptions
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics import clips
from zigma_bench.metrics.extractors import i3d_weights
from zigma_bench.metrics.extractors.i3d import CLIP_BATCH, clip_features
from zigma_bench.metrics.options import EffliteOptions, I3dOptions, InceptionOptions
from zigma_bench.metrics.quality import frechet_distance
from zigma_bench.metrics.subject import Subject


class Motion(torch.nn.Module):
    """Two features of a clip: its mean, and how much it changes from frame to frame."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert x.dim() == 5 and x.size(1) == 3, "clips [B, 3, T, H, W]"
        assert rescale and resize and return_features, "as StyleGAN-V calls it"
        changes = (x[:, :, 1:] - x[:, :, :-1]).abs().mean((1, 2, 3, 4))
        return torch.stack([x.mean((1, 2, 3, 4)), changes], dim=1)


@pytest.fixture(scope="module")
def i3d(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("i3d") / "motion.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(Motion()).save(str(path))
    return str(path)


@pytest.fixture
def subject() -> Subject:
    splits = load(MovingDigitsOptions(frames=4, resolution=12, clips=60, validation=30))
    return Subject(samples=splits.validation, reference=splits.train, reference_facts={"data": "moving-digits"})


def flat(images) -> ArrayImages:
    pixels = images.take(range(len(images)))
    return ArrayImages(pixels.reshape(-1, *pixels.shape[2:]))


def test_a_figure_of_frames_is_that_of_the_frames_as_images(subject):
    images = replace(subject, samples=flat(subject.samples), reference=flat(subject.reference))
    chosen = EffliteOptions(64)
    for names in (
        ("fd", "efflite0"), ("kid", "efflite0"), ("fd", "efflite2"), ("kid", "efflite2"),
    ):  # fmt: skip
        found, expected = of_frames(*names, chosen, subject), measured(*names, chosen, images)
        assert found.name == f"frame-{expected.name}"
        assert found.value == expected.value
        assert found.fingerprint["reference"]["frames"] == 4 and found.fingerprint["n_samples"] == 120
    same = replace(subject, reference=subject.samples)
    assert of_frames("fd", "efflite0", chosen, same).value == pytest.approx(0, abs=1e-6)


def test_frame_fid_has_the_name_of_its_weights(subject, inception_weights):
    few = ArrayImages(subject.samples.take(range(2)))
    options = InceptionOptions(str(inception_weights))
    found = of_frames("fd", "inception", options, replace(subject, samples=few, reference=few))
    assert found.name.startswith("frame-fd-inception-") and found.status == "ok"


def test_the_order_of_frames_matters_to_fvd_alone(subject, i3d):
    pixels = subject.samples.take(range(30))
    still = replace(subject, samples=ArrayImages(pixels[:, [0, 0, 0, 0]]), reference=ArrayImages(pixels))
    jumbled = replace(subject, samples=ArrayImages(pixels[:, [0, 2, 1, 3]]), reference=ArrayImages(pixels))
    options = I3dOptions(i3d)
    same = replace(subject, samples=ArrayImages(pixels), reference=ArrayImages(pixels))
    assert clips.fvd(options, same).value == pytest.approx(0, abs=1e-6)
    assert clips.fvd(options, jumbled).value > 1
    assert clips.fvd(options, still).value > 1
    assert of_frames("fd", "efflite0", EffliteOptions(64), jumbled).value == pytest.approx(0, abs=1e-6)


def test_fvd_is_the_frechet_distance_of_what_the_file_says(subject, i3d):
    found = clips.fvd(I3dOptions(i3d), subject)
    assert found.name == f"fd-i3d-{found.fingerprint['weights_sha256'][:8]}"

    def features(images):
        x = images.take(range(len(images))).astype(np.float64)
        return np.stack([x.mean((1, 2, 3, 4)), np.abs(np.diff(x, axis=1)).mean((1, 2, 3, 4))], axis=1)

    assert found.value == pytest.approx(
        frechet_distance(features(subject.samples), features(subject.reference)), rel=1e-4
    )


def test_features_do_not_depend_on_the_cache(subject, i3d, tmp_path):
    first = clip_features(subject.reference, i3d_weights.i3d_path(I3dOptions(i3d)), cache=tmp_path)
    assert first.shape == (30, 2) and 30 % CLIP_BATCH
    (file,) = tmp_path.rglob("*.npy")
    again = clip_features(subject.reference, i3d_weights.i3d_path(I3dOptions(i3d)), cache=tmp_path)
    assert np.array_equal(first, again)
    file.write_bytes(b"broken")
    assert np.array_equal(
        first, clip_features(subject.reference, i3d_weights.i3d_path(I3dOptions(i3d)), cache=tmp_path)
    )


def test_without_the_file_fvd_says_where_to_put_it(tmp_path, monkeypatch, subject):
    monkeypatch.setenv("ZIGMA_BENCH_WEIGHTS", str(tmp_path))
    (missing,) = i3d_weights.i3d_missing(I3dOptions())
    assert str(tmp_path / "i3d_torchscript.pt") in missing.what and "bec6519f" in missing.do
    assert i3d_weights.fvd_minimum(I3dOptions()) == 400
    with pytest.raises(NotReady, match="no I3D at"):
        clips.fvd(I3dOptions(), subject)


def test_the_published_file_alone_is_called_fvd_and_wants_clips_enough(subject, i3d, monkeypatch):
    monkeypatch.setattr(i3d_weights, "I3D_SHA", i3d_weights.file_sha256(i3d_weights.i3d_path(I3dOptions(i3d))))
    found = clips.fvd(I3dOptions(i3d), subject)
    assert (found.name, found.status) == ("fvd", "refused")
    assert "at least 10 frames" in found.reason
    long = ArrayImages(np.zeros((30, 12, 1, 8, 8), np.uint8))
    found = clips.fvd(I3dOptions(i3d), replace(subject, samples=long, reference=long))
    assert "at least 400 clips" in found.reason


def test_another_file_and_single_images_are_refused(subject, tmp_path, i3d):
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"no network")
    with pytest.raises(NotReady, match=r"wrong\.pt: this isn't a TorchScript file that accepts clips"):
        clips.fvd(I3dOptions(str(wrong)), subject)
    with pytest.raises(UsageError, match="compares clips"):
        clips.fvd(I3dOptions(i3d), replace(subject, samples=flat(subject.samples), reference=flat(subject.reference)))
