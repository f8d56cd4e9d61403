"""`sample MODEL`: the samples, what they depend on, and refused requests."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zigma_bench.backbones.official import open_model
from zigma_bench.cli.app import app
from zigma_bench.diffusion.ddpm import dit_schedule, solve_discrete
from zigma_bench.diffusion.noise import StepNoise, image_noise
from zigma_bench.diffusion.solver import solve_ode
from zigma_bench.errors import UsageError
from zigma_bench.sampling.cell_images import to_pixels
from zigma_bench.sampling.images import open_images
from zigma_bench.sampling.sheets import read_film
from zigma_bench.sampling.words import label_of

from .conftest import PLAIN, TEXT

QUICK = ("--evaluations", 4, "--device", "cpu", "--backend", "torch")


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in ("sample", *words)])


def drawn(folder):
    """Every file by name: pixels [H, W, C] or latents."""
    pictures = {path.name: np.asarray(Image.open(path)) for path in (folder / "images").glob("*")}
    return pictures | {path.name: np.load(path) for path in (folder / "latents").glob("*")}


def done(*words):
    found = run(*words)
    assert found.exit_code == 0, (found.exception, found.stderr)
    return found


def close(left, right):
    """Equal, except for one level if another batch size rounds the last digit of a product differently."""
    return left.keys() == right.keys() and all(
        np.abs(left[name].astype(float) - right[name].astype(float)).max()
        <= (1 if left[name].dtype == np.uint8 else 1e-4)
        for name in left
    )


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_an_image_is_from_seed_and_index_alone(solver, model, tmp_path):
    folder = model("sit")
    done(folder, "--out", tmp_path / "a", "--count", 5, "--batch", 5, "--solver", solver, *QUICK)
    done(folder, "--out", tmp_path / "b", "--count", 2, "--batch", 2, "--solver", solver, *QUICK)
    two = drawn(tmp_path / "b")
    done(folder, "--out", tmp_path / "b", "--count", 5, "--batch", 3, "--solver", solver, *QUICK)
    five = drawn(tmp_path / "a")
    assert sorted(five) == [f"{i:07d}.png" for i in range(5)] and close(five, drawn(tmp_path / "b"))
    assert all(np.array_equal(two[name], drawn(tmp_path / "b")[name]) for name in two)  # not drawn again
    done(folder, "--out", tmp_path / "c", "--count", 5, "--seed", 1, "--solver", solver, *QUICK)
    assert not close(five, drawn(tmp_path / "c"))
    with Image.open(tmp_path / "a" / "grid.png") as grid:
        assert grid.mode == "RGB"


def test_what_is_lost_is_drawn_again_and_the_rest_left(model, tmp_path):
    folder, out = model("sit"), tmp_path / "a"
    done(folder, "--out", out, "--count", 4, *QUICK)
    before = drawn(out)
    (out / "images" / "0000002.png").unlink()
    kept = (out / "images" / "0000001.png").stat().st_mtime_ns
    done(folder, "--out", out, "--count", 4, *QUICK)
    assert close(before, drawn(out)) and (out / "images" / "0000001.png").stat().st_mtime_ns == kept


@torch.no_grad()
def test_sit_is_the_ode_of_its_velocity(model, tmp_path):
    folder = model("sit")
    done(folder, "--out", tmp_path / "a", "--count", 2, "--class", 3, *QUICK)
    network, y = open_model(folder, backend="torch"), torch.tensor([3, 3])
    noise = torch.stack([image_noise(0, index, (3, 4, 4)) for index in range(2)])
    images, _ = solve_ode(lambda x, t: network(x, t, y), noise, solver="euler", evaluations=4)
    for name, pixels in zip(("0000000.png", "0000001.png"), to_pixels(images), strict=True):
        assert np.array_equal(drawn(tmp_path / "a")[name], pixels.transpose(1, 2, 0))


@torch.no_grad()
@pytest.mark.parametrize(("variance", "words"), [("learned", []), ("large", ["--set", "variance=large"])])
def test_dit_walks_its_own_steps_guided_and_with_its_sigma(variance, words, model, tmp_path):
    """Written out: both halves of a batch, the noise guided and the sigma that of the condition."""
    folder = model("dit")
    words = [*words, "--labels", "1,4", "--guidance", 3]
    done(folder, "--out", tmp_path / "a", "--count", 3, *words, *QUICK)
    network, y = open_model(folder, backend="torch"), torch.tensor([1, 4, 1])

    def guided(x, t):
        with_, without = network(x, t, y), network(x, t, torch.full_like(y, 5))
        return torch.cat([without[:, :3] + 3 * (with_ - without)[:, :3], with_[:, 3:]], 1)

    noise = torch.stack([image_noise(0, index, (3, 4, 4)) for index in range(3)])
    stirred = StepNoise(0, range(3), (3, 4, 4), "cpu")
    images, _ = solve_discrete(
        guided, noise, solver="ddpm", evaluations=4, step_noise=stirred, schedule=dit_schedule(), variance=variance
    )
    expected = {f"{i:07d}.png": pixels.transpose(1, 2, 0) for i, pixels in enumerate(to_pixels(images))}
    assert close(expected, drawn(tmp_path / "a"))
    assert json.loads((tmp_path / "a" / "labels.json").read_text()) == [1, 4, 1]


def test_ddim_and_the_odes_of_dit(model, tmp_path):
    """Both go the same way from the same noise without noise of their own, so many steps end at one place."""
    folder, found = model("dit", learn_sigma=False), {}
    for solver, steps in (("ddim", 200), ("heun", 200)):
        words = ("--solver", solver, "--evaluations", steps, "--device", "cpu", "--backend", "torch")
        done(folder, "--out", tmp_path / solver, "--count", 2, *words)
        found[solver] = drawn(tmp_path / solver)
    for name in found["ddim"]:
        assert np.abs(found["ddim"][name].astype(float) - found["heun"][name]).mean() < 6


def test_latents_are_no_pictures(model, tmp_path):
    found = done(model("sit", in_channels=4), "--out", tmp_path / "a", "--count", 2, *QUICK)
    assert "autoencoder" in found.stderr
    latents = drawn(tmp_path / "a")
    assert sorted(latents) == ["0000000.npy", "0000001.npy"] and not list(tmp_path.glob("a/**/*.png"))
    assert all(value.shape == (4, 4, 4) and value.dtype == np.float32 for value in latents.values())


@pytest.fixture
def clips(tmp_path):
    """`clips(channels)`: the folder of an imported ZigMa of two frames, and its network."""
    from zigma_bench.backbones.official import import_checkpoint
    from zigma_bench.backbones.official.zigma import build_official_zigma

    def make(channels):
        config = {**PLAIN["config"], "in_channels": channels, "scan_type": "zzvideo_sst", "video_frames": 2}
        draw = torch.Generator().manual_seed(0)
        layout = build_official_zigma(config, backend="torch").layout
        torch.save({item.name: 0.1 * torch.randn(item.shape, generator=draw) for item in layout}, tmp_path / "zigma.pt")
        import_checkpoint("zigma", tmp_path / "zigma.pt", config, tmp_path / f"model-{channels}")
        return tmp_path / f"model-{channels}", open_model(tmp_path / f"model-{channels}", backend="torch")

    return make


@torch.no_grad()
def test_clips_of_an_imported_model_are_films_that_quality_reads(clips, tmp_path):
    folder, network = clips(3)
    done(folder, "--out", tmp_path / "a", "--count", 2, *QUICK)
    noise = torch.stack([image_noise(0, index, (2, 3, 4, 4)) for index in range(2)])
    images, _ = solve_ode(network, noise, solver="euler", evaluations=4)
    expected = to_pixels(images)
    for index in range(2):
        film = read_film(tmp_path / "a" / "images" / f"{index:07d}.webp")
        assert np.abs(film.astype(int) - expected[index]).max() <= 1
    assert (tmp_path / "a" / "grid.png").is_file() and (tmp_path / "a" / "clips.webp").is_file()
    assert open_images(tmp_path / "a").take([0, 1]).shape == (2, 2, 3, 4, 4)


@torch.no_grad()
def test_latents_of_clips_become_films_frame_by_frame(clips, tmp_path):
    from diffusers import AutoencoderKL

    folder, _ = clips(4)
    done(folder, "--out", tmp_path / "a", "--count", 2, *QUICK, "--autoencoder", autoencoder(tmp_path / "vae"))
    network = AutoencoderKL.from_pretrained(tmp_path / "vae", low_cpu_mem_usage=False)
    for index in range(2):
        latents = torch.from_numpy(np.load(tmp_path / "a" / "latents" / f"{index:07d}.npy"))
        film = read_film(tmp_path / "a" / "images" / f"{index:07d}.webp")
        assert latents.shape == (2, 4, 4, 4) and film.shape == (2, 3, 8, 8)
        assert np.abs(film.astype(int) - to_pixels(network.decode(latents / 0.18215).sample)).max() <= 1


def test_zigma_is_drawn_without_a_condition(model, tmp_path):
    """The golden network has two channels: no picture."""
    done(model("zigma"), "--out", tmp_path / "a", "--count", 2, *QUICK)
    assert drawn(tmp_path / "a")["0000001.npy"].shape == (2, 4, 4)
    assert not (tmp_path / "a" / "labels.json").exists()


def test_labels_are_balanced_and_of_the_index_alone():
    labels = [label_of(3, index, classes=7) for index in range(70)]
    assert all(sorted(labels[i : i + 7]) == list(range(7)) for i in range(0, 70, 7))
    assert labels[:7] != labels[7:14] and labels != [label_of(4, index, classes=7) for index in range(70)]
    assert [label_of(0, index, classes=7, chosen=(2, 5)) for index in range(3)] == [2, 5, 2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--solver", "ddpm"], "ddpm reverses the diffusion of the path vp"),
        (["--solver", "eulr"], "--solver"),
        (["--set", "diffuson=sigma"], "did you mean 'diffusion'"),
        (["--set", "graph=true"], "no CUDA graph"),
        (["--class", 5], "--labels or --class: class label out of range; expected 0 to 4; got 5"),
        (["--class", 1, "--labels", "1"], "omit one of them"),
        (["--labels", "1,x"], "got 'x'"),
        (["--solver", "heun", "--evaluations", 3], "even number"),
        (["--guidance", 0], "--guidance"),
        (["--count", 0], "--count"),
        (["--only", "x"], "--only needs a suite"),
        (["--results", "x"], "--results needs a suite"),
    ],
)
def test_orders_that_make_no_sense(words, told, model, tmp_path):
    found = run(model("sit"), "--out", tmp_path / "a", *words)
    assert isinstance(found.exception, UsageError) and told in str(found.exception), found.exception
    assert not (tmp_path / "a").exists()


def test_requests_that_a_model_does_not_support(model, released, tmp_path):
    from zigma_bench.backbones.official import import_checkpoint

    plain = run(model("sit", class_dropout_prob=0.0), "--out", tmp_path / "a", "--guidance", 2)
    assert "no null condition" in str(plain.exception)
    from golden import official_weights

    file, _ = released("zigma", TEXT["config"], official_weights(TEXT["param_order"]))
    import_checkpoint("zigma", file, TEXT["config"], tmp_path / "text")
    assert "no text encoder" in str(run(tmp_path / "text", "--out", tmp_path / "a").exception)
    dit = run(model("dit"), "--out", tmp_path / "a", "--guidance", 2, "--set", "guidance.interval=[0.1, 0.5]")
    assert "a guidance interval is in times" in str(dit.exception)


def test_a_folder_of_another_order_is_refused(model, tmp_path):
    folder = model("sit")
    done(folder, "--out", tmp_path / "a", "--count", 1, *QUICK)
    for words, what in ((["--seed", 1], "differ in seed"), (["--class", 1], "differ in labels")):
        found = run(folder, "--out", tmp_path / "a", "--count", 1, *words, *QUICK)
        assert what in str(found.exception)
    assert "contains other files" in str(run(folder, "--out", folder, *QUICK).exception)
    assert "add --out" in str(run(folder).exception)


def test_what_is_neither_suite_nor_model(write_suite, tmp_path):
    for path, got in ((tmp_path, "a folder without these files"), (tmp_path / "x", "no such file or folder")):
        told = str(run(path, "--out", tmp_path / "a").exception)
        assert "neither a suite nor a model" in told and got in told
    assert "--count needs a model" in str(run(write_suite(), "--count", 3).exception)


def test_what_is_drawn_is_measured_without_its_grid(model, tmp_path):
    """A later request for fewer images leaves the others and their labels."""
    from zigma_bench.sampling.images import open_images

    folder = model("sit")
    for count in (3, 2):
        done(folder, "--out", tmp_path / "a", "--count", count, *QUICK)
    assert len(open_images(tmp_path / "a")) == 3
    assert len(json.loads((tmp_path / "a" / "labels.json").read_text())) == 3


def test_dopri5_draws_whole_batches(model, tmp_path):
    """Its steps are those of the batch, so that a batch with a lost image is drawn again as it was."""
    folder, words = model("sit"), ("--solver", "dopri5", "--count", 3, "--batch", 2, "--device", "cpu")
    done(folder, "--out", tmp_path / "a", *words)
    before = drawn(tmp_path / "a")
    (tmp_path / "a" / "images" / "0000001.png").unlink()
    done(folder, "--out", tmp_path / "a", *words)
    after = drawn(tmp_path / "a")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    other = run(folder, "--out", tmp_path / "a", "--solver", "dopri5", "--count", 3, "--batch", 3)
    assert "differ in sample" in str(other.exception)


def autoencoder(folder, latent_channels=4, seed=0):
    """A small one with random weights, as diffusers saves it: pictures of twice the side."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), latent_channels=latent_channels, norm_num_groups=4, layers_per_block=1,
        ).save_pretrained(folder)  # fmt: skip
    return folder


@torch.no_grad()
def test_latents_become_the_pictures_of_their_autoencoder(model, tmp_path):
    from diffusers import AutoencoderKL

    words = (model("sit", in_channels=4), "--out", tmp_path / "a", "--count", 3, *QUICK)
    done(*words)
    latents = {
        name: (path := tmp_path / "a" / "latents" / name, path.stat().st_mtime_ns) for name in drawn(tmp_path / "a")
    }
    found = done(*words, "--autoencoder", autoencoder(tmp_path / "vae"), "--json")
    assert json.loads(found.stdout)["autoencoder"]["precision"] == "fp32"
    network = AutoencoderKL.from_pretrained(tmp_path / "vae", low_cpu_mem_usage=False)
    for name, (path, written) in latents.items():
        assert path.stat().st_mtime_ns == written  # what was drawn before is decoded and not drawn again
        image = network.decode(torch.from_numpy(np.load(path))[None] / 0.18215).sample
        picture = np.asarray(Image.open(tmp_path / "a" / "images" / name.replace("npy", "png")))
        assert np.abs(picture.astype(int) - to_pixels(image)[0].transpose(1, 2, 0)).max() <= 1
        assert picture.shape == (8, 8, 3)
    with Image.open(tmp_path / "a" / "grid.png") as grid:
        assert grid.mode == "RGB"


def test_an_autoencoder_that_does_not_fit_is_refused_before_anything_is_drawn(model, tmp_path):
    of_latents, of_pixels = model("sit", in_channels=4), ("--out", tmp_path / "b", "--count", 1, *QUICK)
    cases = {
        "expected 4 channels; got 8": autoencoder(tmp_path / "wide", latent_channels=8),
        "(missing: config.json and diffusion_pytorch_model.safetensors)": tmp_path / "none",
        "download commit abababab": f"some/vae@{'ab' * 20}",
    }
    for said, name in cases.items():
        found = run(of_latents, *of_pixels, "--autoencoder", name)
        assert found.exception.exit_code == 3 and said in str(found.exception), found.exception
    assert not (tmp_path / "b").exists()
    found = run(model("dit"), *of_pixels, "--autoencoder", autoencoder(tmp_path / "vae"))
    assert isinstance(found.exception, UsageError) and "are not latents" in str(found.exception)


def test_pictures_of_two_autoencoders_do_not_share_a_folder(model, tmp_path):
    words = (model("sit", in_channels=4), "--out", tmp_path / "a", "--count", 1, *QUICK)
    done(*words, "--autoencoder", autoencoder(tmp_path / "vae"))
    found = run(*words, "--autoencoder", autoencoder(tmp_path / "other", seed=1))
    assert isinstance(found.exception, UsageError) and "another autoencoder" in str(found.exception)


def test_prompts_of_an_imported_model(tmp_path):
    """Its network under the encoder's features of the prompts, the padding too."""
    from tiny_encoders import LIMIT, WIDTH, write_encoder

    from zigma_bench.backbones.official import import_checkpoint
    from zigma_bench.backbones.official.zigma import build_official_zigma
    from zigma_bench.conditioning.text_encoder import open_encoder

    config = {**TEXT["config"], "in_channels": 3, "d_context": WIDTH}
    draw = torch.Generator().manual_seed(0)
    layout = build_official_zigma(config, backend="torch").layout
    torch.save({item.name: 0.1 * torch.randn(item.shape, generator=draw) for item in layout}, tmp_path / "zigma.pt")
    import_checkpoint("zigma", tmp_path / "zigma.pt", config, tmp_path / "model")
    encoder = write_encoder(tmp_path / "encoder", "clip")
    words = ("--encoder", encoder, "--prompt", "a red cat", "--prompt", "many")
    done(tmp_path / "model", "--out", tmp_path / "a", *words, *QUICK)
    features, _, _ = open_encoder(str(encoder), None)(["a red cat", "many"], LIMIT)
    network, y = open_model(tmp_path / "model", backend="torch"), torch.from_numpy(features)
    noise = torch.stack([image_noise(0, index, (3, 4, 4)) for index in range(2)])
    with torch.no_grad():
        images, _ = solve_ode(lambda x, t: network(x, t, y), noise, solver="euler", evaluations=4)
    for name, pixels in zip(("0000000.png", "0000001.png"), to_pixels(images), strict=True):
        assert np.abs(drawn(tmp_path / "a")[name].astype(int) - pixels.transpose(1, 2, 0)).max() <= 1
    for more, told in (
        (("--guidance", 2), "nothing to guide away from"),
        (("--encoder", "random-words"), "the wrong width for the model"),
        (("--encoder", "no/where"), "the text encoder is not installed"),
    ):
        found = run(tmp_path / "model", "--out", tmp_path / "b", *words, *more, *QUICK)
        assert told in str(found.exception)
    assert "give --prompt" in str(run(tmp_path / "model", "--out", tmp_path / "b", *words[:2]).exception)


def test_an_encoder_is_that_of_a_model_of_texts(model, tmp_path):
    found = run(model("sit"), "--out", tmp_path / "a", "--encoder", "random-words")
    assert "has no text condition" in str(found.exception) and not (tmp_path / "a").exists()
