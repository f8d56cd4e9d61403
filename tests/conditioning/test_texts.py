"""Texts from the data to the images: planning, training with dropped texts, balanced sampling, guidance, prompts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import WIDTH, write_encoder
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.data.cell_images import load_cell_images
from zigma_bench.data.images import ArrayImages, Splits, Subset, captions_of
from zigma_bench.diffusion.guidance import with_guidance, with_labels, with_text_features
from zigma_bench.efficiency.calls import make_timed_call
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.metrics.val_loss import velocity_losses
from zigma_bench.plan import Plan, make_plan
from zigma_bench.plan.cells import NetworkCondition
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.pretrained.text_model import TextModel
from zigma_bench.run.prepare import prepare
from zigma_bench.sampling.cell_images import SampleConditions, assign_rows, sample_part
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.suite import Guidance, Train, load_suite
from zigma_bench.system.device import Device
from zigma_bench.training.loop import TrainingGoal, train_network
from zigma_bench.training.step import draw_batch

CPU = torch.device("cpu")
DATA = (
    "{name: digits}", "{name: digits, caption: several, text: {encoder: random-words, tokens: 8, mask: true}}",
)  # fmt: skip
ALONE = ("  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n", "")
TEXTED = (
    "{name: zigma, width: 32, depth: 2, patch: 2}",
    "{name: zigma, width: 32, depth: 2, patch: 2, condition: text, text_width: 64, text_tokens: 8}",
)
GUIDED = (", evaluations: 2", ", evaluations: 2, guidance: {scale: 2.0}")
ALL = (DATA, ALONE, TEXTED)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are compiled once for all tests; each test has its own features."""
    monkeypatch.setattr("zigma_bench.pretrained.text_encoders.CACHE_VARIABLE", "ZIGMA_BENCH_TEST_CACHE")
    monkeypatch.setenv("ZIGMA_BENCH_TEST_CACHE", str(tmp_path_factory.mktemp("features")))


def plan(path, **rest):
    suite, source = load_suite(path)
    return make_plan(suite, source, catalogue(), **rest)


class Said:
    """Texts: number n has the features n, [B, 3, 2], and a mask; 9 is the empty text."""

    null = 9

    def __call__(self, numbers: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = numbers.float()[:, None, None].expand(-1, 3, 2)
        return features, torch.ones(features.shape[:2], dtype=torch.bool)


def loud(x, t, y, mask):
    """A velocity equal to the number of its text, for every image."""
    assert y.shape == (len(x), 3, 2) and mask.shape == (len(x), 3)
    return y.mean((1, 2))[:, None, None, None].expand_as(x)


class Numbered(ArrayImages):
    """Image i has the captions 2 i and 2 i + 1."""

    def labels(self, indices):
        return 2 * np.asarray(indices, dtype=np.int64)

    def drawn_labels(self, indices, seed):
        return self.labels(indices) + np.random.default_rng(seed).integers(0, 2, len(indices))


IMAGES = Numbered(np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(4, 2))
GIVEN = NetworkCondition(kind="text", size=2, droppable=True, tokens=3, masked=True)


def test_a_batch_has_a_caption_of_each_of_its_images_or_the_empty_one() -> None:
    recipe, seen, dropped = Train(batch=40, drop_condition=0.3), set(), 0
    for step in range(20):
        batch = draw_batch(IMAGES, recipe, 1, step, CPU, GIVEN, Said())
        plain = draw_batch(IMAGES, recipe, 1, step, CPU)
        for mine, other in zip(batch.tensors, plain.tensors, strict=False):
            assert torch.equal(mine, other)  # images, noise and times are those of a network without a condition
        assert batch.y is not None and batch.mask is not None and batch.condition == (batch.y, batch.mask)
        own = ((batch.x1[:, 0, 0, 0] + 1) * 127.5).round().long()
        number = batch.y[:, 0, 0].long()
        assert ((number == 2 * own) | (number == 2 * own + 1) | (number == 9)).all()
        seen |= set(number.tolist())
        dropped += int((number == 9).sum())
        again = draw_batch(IMAGES, recipe, 1, step, CPU, GIVEN, Said())
        assert torch.equal(again.y, batch.y)
    assert seen == {*range(8), 9} and 0.25 < dropped / 800 < 0.35


def test_guidance_is_away_from_the_empty_text() -> None:
    x, t, y = torch.randn(3, 1, 2, 2), torch.rand(3), torch.tensor([2, 4, 6])
    assert torch.equal(with_labels(loud, y, -1, None, Said())(x, t)[:, 0, 0, 0], y.float())
    found = with_labels(loud, y, -1, Guidance(scale=3.0), Said())(x, t)
    torch.testing.assert_close(found[:, 0, 0, 0], 9 + 3 * (y.float() - 9))
    alone = with_guidance(loud, Said()(y), Said()(torch.full_like(y, 9)), Guidance(scale=1.0))(x, t)
    torch.testing.assert_close(alone, loud(x, t, *Said()(y)))


def test_the_validation_loss_is_under_the_true_captions() -> None:
    asked: list[float] = []

    def network(x, t, y, mask):
        asked.extend(y[:, 0, 0].tolist())
        return torch.zeros_like(x)

    velocity_losses(with_text_features(network, Said()), Subset(IMAGES, np.array([3, 1])), labelled=True)
    assert asked == [6.0, 2.0] * 8


def test_captions_are_drawn_from_in_balance() -> None:
    rows, turns = assign_rows(25, 10)
    assert set(np.bincount(rows)) == {2, 3}
    assert sorted(zip(rows.tolist(), turns.tolist(), strict=True)) == sorted((i % 10, i // 10) for i in range(25))
    assert np.array_equal(rows, assign_rows(25, 10)[0]) and rows.tolist() != sorted(rows)


def test_images_are_drawn_under_their_texts_for_any_batch(write_suite) -> None:
    cell = plan(write_suite(*ALL)).cells[0]
    labels = np.arange(32) % 8
    for part in (range(8, 24), range(20, 22)):
        seen = []

        def network(x, t, y, mask, seen=seen):
            seen.append(x.clone())
            return loud(x, t, y, mask)

        sample_part(cell, part, network, Device("cpu", "test"), SampleConditions(labels, 9, Said()))
        moved = 2 * (seen[1] - seen[0])  # two steps of one half each
        np.testing.assert_allclose(moved.mean((1, 2, 3)), labels[part], atol=1e-4)


def test_all_scans_and_seeds_share_the_texts_of_their_images(write_suite) -> None:
    cells = [cell for cell in plan(write_suite(*ALL)).cells if cell.role == "cell"]
    assert len(cells) == 4 and {cell.condition for cell in cells} == {
        NetworkCondition(kind="text", size=64, droppable=True, tokens=8, masked=True)
    }
    parts = load_cell_images(cells[0])
    assert parts.texts is not None and len(parts.texts.store) == 31  # three for each digit, and the empty one
    features, mask = parts.texts(torch.tensor([parts.texts.null]))
    assert features.shape == (1, 8, 64) and mask.sum() == 1
    first = captions_of(parts.validation, range(3))
    again = captions_of(load_cell_images(cells[3]).validation, range(3))
    assert first == again


MASK = ("tokens: 8, mask: true", "tokens: 8")


@pytest.mark.parametrize(
    ("replacements", "kind", "words"),
    [
        ([TEXTED], NotReady, ["conditioned on text features of 8 tokens with 64 channels", "got '10 classes'"]),
        ([TEXTED, (DATA[0], "{name: digits, caption: one}")], NotReady,
         ["captions that are not encoded: set data.text.encoder"]),
        ([(DATA[0], "{name: digits, text: {encoder: minilm}}")], UsageError,
         [":3, key data.text", "'digits' has no captions to encode"]),
        ([*ALL, ("text_tokens: 8", "text_tokens: 9")], NotReady,
         ["of 9 tokens", "got '10 classes and text features of 8"]),
        ([*ALL, ("text_width: 64", "text_width: 63")], NotReady, ["with 63 channels"]),
        ([*ALL, ("tokens: 8, mask", "tokns: 8, mask")], UsageError,
         ["unknown key 'tokns'", "key data.text.tokns", "did you mean 'tokens'?"]),
        ([DATA, ("encoder: random-words", "encoder: minilm"), ("tokens: 8", "tokens: 513")], UsageError,
         ["key data.text", "expected at most 512; got 513"]),
        ([DATA, ALONE, ("{name: zigma, width: 32, depth: 2", "{name: u-vit, width: 32, condition: text, "
          "text_width: 64, text_tokens: 8, depth: 3")], NotReady, ["which this backbone does not support"]),
        ([DATA, ("encoder: random-words", "encoder: no/where")], NotReady, ["text encoder no/where"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(write_suite, replacements, kind, words) -> None:
    with pytest.raises(kind) as caught:
        plan(write_suite(*replacements)).check_ready()
    for word in words:
        assert word in str(caught.value)


def test_what_enters_the_identities(write_suite) -> None:
    def stages(*replacements):
        cell = plan(write_suite(*replacements)).cells[0]
        return [cell.identity(stage, device_model="") for stage in ("train", "sample", "quality")]

    own = stages(*ALL)
    for other in (MASK, ("caption: several", "caption: one"), ("{batch: 16}", "{batch: 16, drop_condition: 0.2}")):
        assert not set(stages(*ALL, other)) & set(own)
    steered = stages(*ALL, GUIDED)
    assert steered[0] == own[0] and not set(steered[1:]) & set(own)
    assert stages(*ALL, ("mask: true}", "mask: true, cache: elsewhere}")) == own  # a place is none
    plain = stages(ALONE)
    assert stages(ALONE, (DATA[0], "{name: digits, caption: null, text: null}")) == plain


def test_a_network_without_a_condition_ignores_the_texts(write_suite) -> None:
    """Its row is in the same table as conditioned rows, and its identity doesn't contain the encoder."""
    cells = plan(write_suite(DATA, TEXTED)).cells
    free = next(cell for cell in cells if cell.backbone and cell.backbone.name == "dit")
    assert free.text is None and free.condition is None and load_cell_images(free).texts is None
    floor = next(cell for cell in cells if cell.role == "floor")
    assert floor.text is None


def test_a_network_learns_what_its_texts_mean(tmp_path) -> None:
    """Dark images of text 0, bright ones of text 1: only the text determines which; zigma reads it through a mask."""

    class Two:
        null = 2
        features = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))

        def __call__(self, numbers):
            return self.features[numbers], torch.tensor([True, True, False, False]).expand(len(numbers), 4)

    pixels = np.repeat(np.array([40, 215], dtype=np.uint8), 32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    images, grid = ArrayImages(pixels, np.repeat(np.arange(2), 32)), Grid(2, 2)
    spec = catalogue().get("backbone", "zigma")
    text = {"condition": "text", "text_width": 8, "text_tokens": 4, "drop_path": 0.0}
    options = spec.make_options({"width": 32, "depth": 1, "patch": 2, **text})
    orders = layer_routes(catalogue().get("scan", "raster"), grid=grid, depth=1, seed=0, options={})
    network = spec.load()(options, grid=grid, channels=1, routes=orders, backend="torch")
    initialise_network(network, 0)
    ema, _ = train_network(
        network, images, recipe=Train(batch=32, learning_rate=3e-3, ema=0.9), goal=TrainingGoal(150, None), seed=0,
        device=CPU, folder=tmp_path, on_progress=lambda done, text: None, stopped=lambda: False,
        condition=NetworkCondition(kind="text", size=8, droppable=True, tokens=4, masked=True), texts=Two(),
    )  # fmt: skip
    x, t = torch.randn(64, 1, 4, 4), torch.zeros(64)
    with torch.no_grad():
        told = [with_text_features(ema, Two())(x, t, torch.full((64,), y)) for y in (0, 1, 2)]
        means = [float((said + x).mean()) for said in told]  # E[x1], from noise alone
        hidden = Two().features.clone()
        hidden[:, 2:] += 5  # what the mask hides
        other = ema(x, t, hidden[:1].expand(64, -1, -1), Two()(torch.zeros(64, dtype=torch.int64))[1])
    assert means[0] == pytest.approx(40 / 127.5 - 1, abs=0.15)
    assert means[1] == pytest.approx(215 / 127.5 - 1, abs=0.15)
    assert means[2] == pytest.approx(0.0, abs=0.35)  # the empty text: either
    torch.testing.assert_close(other, told[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["latency", "forward", "sample", "forward-backward", "train-step"])
def test_text_networks_are_timed(name, write_suite) -> None:
    from zigma_bench.backbones.build import build_network

    timed = ("quality: [val-loss]", "quality: [val-loss]\nefficiency: {repeats: 3, sample_batch: 2}")
    cell = plan(write_suite(*ALL, GUIDED, timed)).cells[0]
    stage = make_timed_call(name, cell, build_network(cell, "cpu"), Device("cpu", "test"))
    stage.call()
    assert stage.passes == (4 if name == "sample" else 1 if name in ("latency", "forward") else 3)


def test_an_efficiency_suite_times_networks_of_texts(tmp_path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(
        "# How fast?\nname: e\ncompare:\n  - backbone: {name: zigma, width: 32, depth: 2, patch: 1, condition: text}\n"
        "    scans: [raster]\nefficiency: {tokens: [16], stages: [forward]}\n"
    )
    (cell,) = plan(path).cells
    assert cell.condition == NetworkCondition(kind="text", size=768, droppable=True, tokens=77)


def test_every_shape_of_suite_has_a_toy_of_its_texts(write_suite) -> None:
    """The smoke run of a suite with an encoder, data and latents that are missing here."""
    there = "{name: huggingface, path: a/b, resolution: 64, validation: 9, caption: x, text: {encoder: c/d}}"
    for more in ("", ", latents: {autoencoder: e/f}"):
        path = write_suite((DATA[0], there.replace("caption: x", f"caption: x{more}")), TEXTED, ALONE)
        toy = plan(path, smoke=True)
        toy.check_ready()
        assert toy.cells[0].text is not None and toy.cells[0].text.encoder == "random-words"


@pytest.fixture(scope="module")
def ran(tmp_path_factory, suite_text) -> tuple[Path, Path]:
    """A finished suite with texts: its results, and the folder of one of its cells."""
    text, place = suite_text, tmp_path_factory.mktemp("ran")
    for old, new in (*ALL, GUIDED, ("seeds: [0, 1]", "seeds: [0]"), ("mask: true", f"mask: true, cache: {place}/kept")):
        assert old in text
        text = text.replace(old, new)
    (place / "suite.yaml").write_text(text)
    words = [sys.executable, "-m", "zigma_bench", "run", str(place / "suite.yaml"), "--results", str(place / "r")]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["role"] for row in rows] == ["floor", "cell", "cell", "ceiling"]
    assert all(np.isfinite(row["metrics"]["val-loss"]["mean"]) for row in rows[1:])
    return place, next((place / "r" / "tiny" / "main").glob("zigma-raster*"))


def test_the_captions_are_recorded_beside_the_images(ran) -> None:
    place, _ = ran
    found = [json.loads(file.read_text()) for file in (place / "r" / "tiny" / "main").glob("*/sample-*/captions.json")]
    assert len(found) == 3 and all(texts == found[0] for texts in found)  # two scans, and the untrained network
    assert len(found[0]) == 32 and all(text.endswith(("written by hand",)) or " " in text for text in found[0])


def test_an_encoder_of_the_hub_is_fetched_before_the_first_cell(write_suite, tmp_path, monkeypatch) -> None:
    """It is not fetched while other files are missing, nor by a plan, nor if its features are stored."""
    commit, fetched = "ab" * 20, []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def fetch(model: TextModel) -> None:
        fetched.append(model.name)
        write_encoder(tmp_path / "hub" / "models--some--encoder" / "snapshots" / commit, "clip")

    monkeypatch.setattr(TextModel, "fetch", fetch)
    named = ("encoder: random-words", f"encoder: some/encoder, revision: {commit}")
    path = write_suite(*ALL, named, ("text_width: 64", f"text_width: {WIDTH}"))

    def ready(*settings: str, **how: Any) -> Plan:
        return prepare(path, settings=settings, only=(), smoke=False, **how)

    (missing,) = ready().missing
    assert missing.what == "the text encoder some/encoder" and "run, to download commit abababab" in missing.do
    assert len(ready("quality=[fid,kid]", fetch=True).missing) > 1 and not fetched
    assert ready("train.graph=true", fetch=True, device_type="cpu").missing and not fetched  # nor without a GPU
    assert ready(fetch=True).missing == () and fetched == ["some/encoder"]
    assert ready().cells[1].text.width == WIDTH  # known before any cell runs
    ready(fetch=True)
    assert fetched == ["some/encoder"]


def test_captions_are_encoded_before_a_run(write_suite, tmp_path) -> None:
    kept = ("mask: true", f"mask: true, cache: {tmp_path / 'kept'}")
    words = [str(write_suite(*ALL, kept)), "--results", str(tmp_path / "r"), "--device", "cpu"]
    runner = CliRunner()
    planned = runner.invoke(app, ["plan", *words])
    assert "texts: random-words, 8 tokens of 64 channels, padding masked; not encoded yet" in planned.stdout
    done = runner.invoke(app, ["data", "encode", *words])
    assert done.exit_code == 0 and "encoded, 30 captions in" in done.stdout
    checked = runner.invoke(app, ["data", "check", words[0]])
    assert checked.exit_code == 0 and "encoded, 30 captions in" in checked.stdout, checked.output
    (file,) = (tmp_path / "kept").glob("*/0000000.features.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert "captions, shard 0 is broken" in str(runner.invoke(app, ["data", "encode", *words, "--check"]).exception)
    checked = runner.invoke(app, ["data", "check", words[0]])
    assert checked.exit_code == 3 and "captions, shard 0 is broken" in checked.stdout, checked.output
    started = runner.invoke(app, ["run", *words])  # before any cell
    assert isinstance(started.exception, NotReady) and "captions, shard 0 is broken" in str(started.exception)
    assert runner.invoke(app, ["data", "encode", *words]).exit_code == 0
    assert runner.invoke(app, ["data", "check", words[0]]).exit_code == 0


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in ("sample", *words, "--device", "cpu")])


def drawn(folder) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))]


def test_a_cell_is_drawn_from_under_prompts(ran, tmp_path) -> None:
    _, cell = ran
    words = ("--prompt", "the digit seven", "--prompt", "a handwritten two")
    assert run(cell, *words, "--out", tmp_path / "a").exit_code == 0
    assert run(cell, *words, "--out", tmp_path / "b", "--count", 4, "--batch", 3).exit_code == 0
    assert run(cell, "--prompt", "a handwritten two", "--out", tmp_path / "c", "--guidance", 9).exit_code == 0
    two, four, other = (drawn(tmp_path / name) for name in "abc")
    assert [len(images) for images in (two, four, other)] == [2, 4, 1]
    assert two[0].shape == (8, 8) and np.abs(two[1].astype(int) - four[1]).max() <= 1
    prompts = json.loads((tmp_path / "b" / "prompts.json").read_text())
    assert prompts == ["the digit seven", "a handwritten two"] * 2
    with Image.open(tmp_path / "b" / "grid.png") as grid:
        assert grid.size == (8 * 50, 50)
    again = run(cell, "--prompt", "another", "--out", tmp_path / "a")
    assert "differ in prompts" in str(again.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give --prompt TEXT"),
        (("--prompt", "a b c d e f g h i"), "too long for the network"),
        (("--prompt", "a", "--class", 1), "no classes"),
        (("--prompt", "a", "--set", "graph=true"), "no CUDA graph"),
        (("--prompt", "a", "--smoke"), "--smoke needs a suite, and this is a cell"),
        (("--prompt", "a", "--autoencoder", "b"), "are not latents"),
        (("--prompt", "a", "--encoder", "minilm"), "already has a text encoder"),
    ],
)
def test_orders_of_a_cell_that_make_no_sense(ran, words, told, tmp_path) -> None:
    assert told in str(run(ran[1], *words, "--out", tmp_path / "a").exception)
    assert not (tmp_path / "a" / "spec.json").exists()


def test_a_cell_that_is_no_trained_one(ran, tmp_path) -> None:
    import shutil

    cell = Path(shutil.copytree(ran[1], tmp_path / "cell"))
    (weights,) = cell.glob("train-*/ema.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert "sha256" in str(run(cell, "--prompt", "a", "--out", tmp_path / "a").exception)
    (record,) = cell.glob("train-*/record.json")
    record.unlink()
    assert "training is not done" in str(run(cell, "--prompt", "a", "--out", tmp_path / "a").exception)
    assert "needs a model" in str(run(ran[0] / "suite.yaml", "--prompt", "a").exception)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("{name: zigma, width: 32, depth: 2, patch: 2}", ()),
        ("{name: dit, width: 32, depth: 2, patch: 2, condition: class, classes: 10}", ("--class", 3, "--guidance", 2)),
    ],
)
def test_cells_of_other_conditions_are_drawn_from(backbone, words, write_suite, tmp_path) -> None:
    path = write_suite(
        (TEXTED[0], backbone), ALONE, ("seeds: [0, 1]", "seeds: [0]"), (", {name: zigzag, paths: 8}", ""),
        ("quality: [val-loss]", "quality: []"),
    )  # fmt: skip
    command = [sys.executable, "-m", "zigma_bench", "train", str(path), "--results", str(tmp_path / "r")]
    subprocess.run(command, capture_output=True, check=True)
    (cell,) = (tmp_path / "r" / "tiny" / "main").glob("*-seed-0-*")
    assert run(cell, "--count", 3, *words, "--out", tmp_path / "a").exit_code == 0
    assert len(drawn(tmp_path / "a")) == 3
    assert "has no text condition" in str(run(cell, "--prompt", "a", "--out", tmp_path / "b").exception)


def test_texts_of_two_sides_are_kept_apart() -> None:
    """A caption that only held-out images have also gets a number."""
    from zigma_bench.conditioning.text_features import load_text_features
    from zigma_bench.plan.cells import TextFeatures

    def images(*texts):
        return ArrayImages(np.zeros((len(texts), 1, 2, 2), np.uint8), None, [(text,) for text in texts])

    text = TextFeatures(
        encoder="random-words", revision=None, fingerprint="random-words 1", images="two sides", width=64, tokens=4,
        mask=False, cache=None,
    )  # fmt: skip
    splits, table = load_text_features(Splits(images("a", "b"), images("c", "a")), text, device="cpu")
    assert splits.train.labels([0, 1]).tolist() == [0, 1] and splits.validation.labels([0, 1]).tolist() == [2, 0]
    assert table.null == 3
