"""Latents: the cache contains the same as diffusers computes, a kill costs one shard, and other latents are refused."""

from __future__ import annotations

import functools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from zigma_bench.data.images import ArrayImages, Splits
from zigma_bench.data.latents.autoencoder import open_autoencoder
from zigma_bench.data.latents.cache import folder_of, latents_of, reconstructions_of
from zigma_bench.data.latents.encode import check_latents, encode_latents
from zigma_bench.errors import Interrupted, NotReady, UsageError
from zigma_bench.plan.cells import NetworkCondition
from zigma_bench.plan.latents import latent_space
from zigma_bench.plugins.registry import DataFacts
from zigma_bench.suite import Latents, Train
from zigma_bench.training.step import draw_batch

CONFIG = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "block_out_channels": [8, 8], "latent_channels": 4,
    "norm_num_groups": 4, "layers_per_block": 1, "scaling_factor": 0.7, "shift_factor": 0.3,
}  # fmt: skip
FACTS = DataFacts(3, 8, 12, "pixels")
DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (300, 3, 8, 12), dtype=np.uint8)
SPLITS = Splits(ArrayImages(PIXELS[:270], np.arange(270) % 7), ArrayImages(PIXELS[270:]))


def trained(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A small autoencoder with random weights, as diffusers saves one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoencoderKL(**{**CONFIG, **changes}).save_pretrained(folder)
    return folder


@pytest.fixture
def autoencoder(tmp_path):
    return trained(tmp_path / "vae")


def space_of(folder: Path, facts: DataFacts = FACTS, *, flip: bool = False, **options: object):
    given = Latents(autoencoder=str(folder), **options)
    return latent_space(given, facts, mirrored=flip, smoke=False, where="suite")


def encoded(space, cache: Path, on_progress=lambda *words: None, stopped=lambda: False) -> int:
    return encode_latents(SPLITS, space, cache, device="cpu", on_progress=on_progress, stopped=stopped)


def posterior_of(folder: Path, pixels):
    """The latents that diffusers itself computes."""
    network = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        return network.encode(torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1)).latent_dist


def test_a_network_sees_the_shape_of_the_latents(autoencoder):
    space, facts = space_of(autoencoder)
    assert (facts.channels, facts.height, facts.width) == (4, 4, 6) == space.shape
    assert facts.missing == () and facts.fingerprint != FACTS.fingerprint
    assert (space.scale, space.shift) == ((0.7,), (0.3,))


def test_an_identity_is_of_what_can_change_a_latent(autoencoder, tmp_path):
    first = space_of(autoencoder)[1].fingerprint
    other, elsewhere = trained(tmp_path / "other", seed=1), tmp_path / "elsewhere"
    shutil.copytree(autoencoder, elsewhere)
    same = [space_of(autoencoder, batch=3), space_of(autoencoder, cache="x"), space_of(elsewhere)]
    assert {facts.fingerprint for _, facts in same} == {first}
    unlike = [
        space_of(other), space_of(autoencoder, posterior="mean"), space_of(autoencoder, precision="bf16"),
        space_of(autoencoder, dtype="float16"), space_of(autoencoder, flip=True),
        space_of(trained(tmp_path / "scaled", scaling_factor=0.5)),
        space_of(autoencoder, replace(FACTS, fingerprint="other")),
    ]  # fmt: skip
    assert len({first, *(facts.fingerprint for _, facts in unlike)}) == 8


def test_the_cache_contains_the_posterior_of_images_and_of_mirror_images(autoencoder, tmp_path):
    space, _ = space_of(autoencoder, flip=True, batch=7)
    assert encoded(space, tmp_path) == 300
    train = latents_of(SPLITS, space, tmp_path).train
    for name, pixels in (("moments", PIXELS[:40]), ("mirrored", PIXELS[:40, ..., ::-1].copy())):
        posterior = posterior_of(autoencoder, pixels)
        wanted = torch.cat([posterior.mean, posterior.logvar], 1).numpy()
        assert np.allclose(train.store.take(name, range(40)), wanted, atol=2e-5)
    assert np.array_equal(train.labels([3, 9]), [3, 2])


def test_a_latent_is_shifted_and_scaled_and_decodes_to_the_image_of_diffusers(autoencoder, tmp_path):
    space, _ = space_of(autoencoder, posterior="mean")
    encoded(space, tmp_path)
    held = latents_of(SPLITS, space, tmp_path).validation
    z = posterior_of(autoencoder, PIXELS[270:]).mean
    assert np.allclose(held.take(range(30)), (z - 0.3) * 0.7, atol=2e-5)
    images = open_autoencoder(space, "cpu").decode(torch.from_numpy(held.take(range(30))))
    network = AutoencoderKL.from_pretrained(autoencoder, low_cpu_mem_usage=False)
    with torch.no_grad():
        assert torch.allclose(images, network.decode(z).sample, atol=1e-4)
    assert images.shape == (30, 3, 8, 12)


def test_training_samples_from_the_posterior_again_in_every_step(autoencoder, tmp_path):
    space, _ = space_of(autoencoder)
    encoded(space, tmp_path)
    train = latents_of(SPLITS, space, tmp_path).train
    draw = functools.partial(train.draw, np.array([5, 6]), flip=False, device=torch.device("cpu"))
    assert torch.equal(draw(seed=1), draw(seed=1)) and not torch.equal(draw(seed=1), draw(seed=2))
    many = torch.stack([draw(seed=seed) for seed in range(2000)])
    posterior = posterior_of(autoencoder, PIXELS[5:7])
    assert torch.allclose(many.mean(0), (posterior.mean - 0.3) * 0.7, atol=0.15)
    assert torch.allclose(many.std(0), posterior.std * 0.7, rtol=0.15)
    assert np.array_equal(train.take([5, 6]), train.take([5, 6]))  # the fixed draw
    assert np.array_equal(train.take([6, 5]), train.take([5, 6])[::-1])


def test_a_step_has_the_same_times_noise_and_labels_however_its_latents_are_drawn(autoencoder, tmp_path):
    """So the noise of the posterior uses a separate random stream."""
    given, device = NetworkCondition(kind="class", size=7, droppable=True), torch.device("cpu")
    batches = []
    for posterior in ("sample", "mean"):
        space, _ = space_of(autoencoder, posterior=posterior)
        encoded(space, tmp_path)
        train = latents_of(SPLITS, space, tmp_path).train
        batches.append([draw_batch(train, Train(batch=8), 0, step, device, given) for step in (3, 3, 4)])
    for drawn, mean in zip(*batches, strict=True):
        assert torch.equal(drawn.x0, mean.x0) and torch.equal(drawn.t, mean.t) and torch.equal(drawn.y, mean.y)
        assert drawn.x1.shape == (8, 4, 4, 6) and not torch.equal(drawn.x1, mean.x1)
    assert torch.equal(batches[0][0].x1, batches[0][1].x1) and not torch.equal(batches[0][0].x1, batches[0][2].x1)


def test_a_flip_takes_the_mirror_image_of_half_of_the_batch(autoencoder, tmp_path):
    space, _ = space_of(autoencoder, flip=True, posterior="mean")
    encoded(space, tmp_path)
    train = latents_of(SPLITS, space, tmp_path).train
    indices = np.arange(256)
    seen = train.draw(indices, flip=True, seed=3, device=torch.device("cpu")).numpy()
    kinds = {name: (train.store.take(name, indices)[:, :4] - 0.3) * 0.7 for name in ("moments", "mirrored")}
    which = [[np.allclose(seen[i], kinds[name][i], atol=1e-6) for name in kinds] for i in indices]
    assert all(sum(pair) == 1 for pair in which)
    assert 90 < sum(mirrored for _, mirrored in which) < 166


def test_half_floats_are_half_as_large_and_near(autoencoder, tmp_path):
    full, half = (space_of(autoencoder, dtype=dtype, posterior="mean")[0] for dtype in ("float32", "float16"))
    sizes, taken = [], []
    for space in (full, half):
        encoded(space, tmp_path)
        sizes.append(sum(file.stat().st_size for file in folder_of(space, tmp_path).rglob("*.npy")))
        taken.append(latents_of(SPLITS, space, tmp_path).train.take(range(270)))
    assert sizes[1] < 0.6 * sizes[0] and taken[1].dtype == np.float32
    assert np.allclose(*taken, atol=2e-3) and not np.array_equal(*taken)


@pytest.mark.parametrize("posterior", ["sample", "mean"])
def test_reconstructions_are_the_decoded_latents(posterior, autoencoder, tmp_path):
    space, _ = space_of(autoencoder, posterior=posterior, batch=7)
    assert encoded(space, tmp_path) == 300
    space = space.model_copy(update={"reconstructed": "validation"})
    with pytest.raises(NotReady, match="the store does not exist yet"):
        reconstructions_of(SPLITS.validation, space, tmp_path)
    assert encoded(space, tmp_path) == 30  # of the latents that are there
    pixels = reconstructions_of(SPLITS.validation, space, tmp_path).take(range(30))
    latents = latents_of(SPLITS, space, tmp_path).validation.take(range(30))
    network = AutoencoderKL.from_pretrained(autoencoder, low_cpu_mem_usage=False)
    with torch.no_grad():
        images = network.decode(torch.from_numpy(latents) / 0.7 + 0.3).sample
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - ((images + 1) * 127.5).round().clamp(0, 255).numpy()).max() <= 1


def test_a_stopped_encoding_resumes_with_the_same_latents(autoencoder, tmp_path):
    space, _ = space_of(autoencoder)
    encoded(space, tmp_path / "whole")
    told: list[int] = []
    with pytest.raises(Interrupted, match="after 256 images"):
        encoded(space, tmp_path / "cut", lambda done, total, text: told.append(done), lambda: bool(told))
    with pytest.raises(NotReady, match=r"shard 1 is missing.*data encode SUITE"):
        latents_of(SPLITS, space, tmp_path / "cut")
    assert encoded(space, tmp_path / "cut") == 44  # of 300, after a shard of 256
    assert encoded(space, tmp_path / "cut") == 0
    whole, cut = (latents_of(SPLITS, space, tmp_path / name) for name in ("whole", "cut"))
    for split in ("train", "validation"):
        sides = [getattr(found, split) for found in (whole, cut)]
        assert np.array_equal(*(side.take(range(len(side))) for side in sides))


def test_a_death_within_a_shard_leaves_nothing_of_it(autoencoder, tmp_path, monkeypatch):
    space, _ = space_of(autoencoder)

    class Killed(BaseException):
        pass

    def die(path, data):
        raise Killed

    monkeypatch.setattr(
        "zigma_bench.data.reading.arrays.write_json", die
    )  # the arrays are written, their checksums are not
    encoding_began = folder_of(space, tmp_path) / "train"
    with pytest.raises(Killed):
        encoded(space, tmp_path)
    monkeypatch.undo()
    assert not list(encoding_began.glob("0*.json"))
    assert encoded(space, tmp_path) == 300
    assert check_latents(SPLITS, space, tmp_path) == {"train": [], "validation": []}


def test_a_broken_shard_is_found_and_only_it_is_encoded_again(autoencoder, tmp_path):
    space, _ = space_of(autoencoder)
    encoded(space, tmp_path)
    before = latents_of(SPLITS, space, tmp_path).train.take(range(270))
    file = folder_of(space, tmp_path) / "train" / "0000001.moments.npy"
    data = bytearray(file.read_bytes())
    data[-5] ^= 64
    file.write_bytes(bytes(data))
    assert [fault.shard for fault in check_latents(SPLITS, space, tmp_path)["train"]] == [1]
    assert encoded(space, tmp_path) == 270 - 256
    assert np.array_equal(before, latents_of(SPLITS, space, tmp_path).train.take(range(270)))


def test_the_cache_of_another_autoencoder_or_data_set_is_refused(autoencoder, tmp_path):
    cache = str(tmp_path / "shared")
    space, _ = space_of(autoencoder, cache=cache)
    encoded(space, tmp_path)
    other, _ = space_of(trained(tmp_path / "other", seed=1), cache=cache)
    data, _ = space_of(autoencoder, replace(FACTS, fingerprint="other pixels"), cache=cache)
    for unlike, named in ((other, "weights_sha256"), (data, "images")):
        for use in (lambda s=unlike: encoded(s, tmp_path), lambda s=unlike: latents_of(SPLITS, s, tmp_path)):
            with pytest.raises(NotReady, match=f"another {named}.*expected.*got"):
                use()
    fewer = Splits(ArrayImages(PIXELS[:269]), SPLITS.validation)
    with pytest.raises(NotReady, match="another rows"):
        latents_of(fewer, space, tmp_path)


def test_a_folder_in_use_is_no_cache(autoencoder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"contains other files.*thesis\.tex"):
        encoded(space_of(autoencoder, cache=str(tmp_path / "mine"))[0], tmp_path)


def test_an_autoencoder_that_changed_since_the_plan_is_refused(autoencoder, tmp_path):
    space, _ = space_of(autoencoder)
    trained(autoencoder, seed=5)
    with pytest.raises(NotReady, match="changed after the plan was made"):
        open_autoencoder(space, "cpu")


def test_weights_that_do_not_fit_their_configuration_are_refused(autoencoder):
    from safetensors.torch import load_file, save_file

    file = autoencoder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_end.weight"] = weights.pop("decoder.conv_out.weight")
    save_file(weights, file)
    with pytest.raises(NotReady, match=r"2 names that don't fit, such as decoder\.conv_out\.weight"):
        open_autoencoder(space_of(autoencoder)[0], "cpu")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(NotReady, match="can't be read"):
        open_autoencoder(space_of(autoencoder)[0], "cpu")


def test_the_names_of_released_weights_are_read(autoencoder):
    """Stable Diffusion's autoencoders were saved before diffusers renamed the attention's layers."""
    from safetensors.torch import load_file, save_file

    space, _ = space_of(autoencoder)
    draw = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    before = open_autoencoder(space, "cpu").decode(draw)
    file, old = autoencoder / "diffusion_pytorch_model.safetensors", {}
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name, weight in load_file(file).items():
        for new, earlier in renamed.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{earlier}.")
        old[name] = weight
    assert "encoder.mid_block.attentions.0.query.weight" in old
    save_file(old, file)
    assert torch.equal(open_autoencoder(space_of(autoencoder)[0], "cpu").decode(draw), before)


@pytest.mark.parametrize(
    ("facts", "named"),
    [(replace(FACTS, channels=1), "expected 3 channels; got 1"), (replace(FACTS, width=9), r"divisible by 2.*8 x 9")],
)
def test_images_that_the_autoencoder_can_not_take_are_refused(facts, named, autoencoder):
    with pytest.raises(NotReady, match=named):
        space_of(autoencoder, facts)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"_class_name": "UNet2DModel"}, r"not an AutoencoderKL.*UNet2DModel"),
        ({"scaling_factor": "large"}, "is invalid"),
        ({"latents_std": [1.0, 0.0, 1.0, 1.0]}, "is invalid"),
    ],
)
def test_a_configuration_of_something_else_is_refused(config, named, autoencoder):
    path = autoencoder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(NotReady, match=named):
        space_of(autoencoder)


def test_means_and_deviations_of_channels_are_the_shift_and_the_scale(tmp_path):
    folder = trained(tmp_path / "vae", latents_mean=[0.0, 1.0, 2.0, 3.0], latents_std=[1.0, 2.0, 4.0, 0.5])
    space, _ = space_of(folder, posterior="mean")
    encoded(space, tmp_path)
    held = latents_of(SPLITS, space, tmp_path).validation
    z = posterior_of(folder, PIXELS[270:]).mean.numpy()
    mean, std = (np.array(v, np.float32).reshape(4, 1, 1) for v in ((0, 1, 2, 3), (1, 2, 4, 0.5)))
    assert np.allclose(held.take(range(30)), (z - mean) / std * 0.7, atol=3e-5)


def test_an_absent_autoencoder_is_missing_and_planned_as_stable_diffusions(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commit, facts = "0123456789abcdef" * 2 + "01234567", DataFacts(3, 64, 64, "pixels")
    cases = {
        ("some/vae", commit): f"unset HF_HUB_OFFLINE.*commit {commit[:8]} of some/vae",
        ("some/vae", None): "set revision to a commit of the model on the Hub",
        (str(tmp_path / "none"), None): f"put config.json and .* into {tmp_path / 'none'}",
    }
    for (name, revision), said in cases.items():
        given = Latents(autoencoder=name, revision=revision)
        space, found = latent_space(given, facts, mirrored=False, smoke=False, where="suite")
        (missing,) = found.missing
        assert "config.json" in missing.what
        assert re.search(said, missing.do), missing
        assert space.shape == (4, 8, 8)
    for wrong in ({"revision": "main"}, {"revision": commit, "autoencoder": "/a/b/c"}, {"subfolder": "../x"}):
        with pytest.raises(UsageError):
            latent_space(Latents(**{"autoencoder": "a/b", **wrong}), facts, mirrored=False, smoke=False, where="x")


def test_the_hubs_copy_at_a_commit_is_read(tmp_path, monkeypatch):
    commit = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    trained(tmp_path / "models--some--model" / "snapshots" / commit / "vae")
    given = Latents(autoencoder="some/model", revision=commit, subfolder="vae")
    space, facts = latent_space(given, FACTS, mirrored=False, smoke=False, where="suite")
    assert facts.missing == () and space.shape == (4, 4, 6)
    assert open_autoencoder(space, "cpu").decode(torch.zeros(1, 4, 4, 6)).shape == (1, 3, 8, 12)


def test_the_toy_is_the_same_everywhere_and_of_smoke_runs_alone():
    given = Latents(autoencoder="toy")
    with pytest.raises(UsageError, match="smoke runs"):
        latent_space(given, FACTS, mirrored=False, smoke=False, where="suite")
    space, _ = latent_space(given, FACTS, mirrored=False, smoke=True, where="suite")
    torch.manual_seed(1)
    first = open_autoencoder(space, "cpu").moments(PIXELS[:2])
    torch.manual_seed(2)
    assert np.array_equal(first, open_autoencoder(space, "cpu").moments(PIXELS[:2])) and first.std() > 0.1
