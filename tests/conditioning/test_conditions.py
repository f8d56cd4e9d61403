"""Class labels from the data to the images: planning, training with dropped labels, balanced sampling, guidance."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from zigma_bench.data.images import ArrayImages, Subset, labels_of
from zigma_bench.data.sources import digits
from zigma_bench.data.sources.options import DigitsOptions
from zigma_bench.diffusion.guidance import with_guidance
from zigma_bench.errors import UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.metrics.val_loss import velocity_losses
from zigma_bench.plan import make_plan
from zigma_bench.plan.cells import NetworkCondition
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.sampling.cell_images import balanced_labels, sample_part
from zigma_bench.scans.grid import Grid
from zigma_bench.suite import Guidance, Train, load_suite
from zigma_bench.system.device import Device
from zigma_bench.training.loop import TrainingGoal, train_network
from zigma_bench.training.step import draw_batch

CPU = torch.device("cpu")
TEN = NetworkCondition(kind="class", size=10, droppable=True)
DIT = "{name: dit, width: 32, depth: 2, patch: 2}"
CONDITIONED = (
    DIT,
    "{name: dit, width: 32, depth: 2, patch: 2, condition: class, classes: 10}",
)
ALONE = (
    "  - backbone: {name: zigma, width: 32, depth: 2, patch: 2}\n    scans: [raster, {name: zigzag, paths: 8}]\n",
    "",
)
GUIDED = (", evaluations: 2", ", evaluations: 2, guidance: {scale: 2.0}")


def plan(path):
    suite, source = load_suite(path)
    return make_plan(suite, source, catalogue())


def test_the_digits_know_what_they_show() -> None:
    splits = digits.load(DigitsOptions())
    labels = labels_of(splits.train, range(len(splits.train)))
    assert set(labels) == set(range(10))
    means = np.stack([splits.train.take(np.flatnonzero(labels == k)).astype(float).mean(0) for k in range(10)])
    held = splits.validation.take(range(500)).astype(float)
    nearest = ((held[:, None] - means) ** 2).sum((2, 3, 4)).argmin(1)
    assert (nearest == labels_of(splits.validation, range(500))).mean() > 0.85  # wrong labels would give 0.1


def test_a_batch_has_the_labels_of_its_images_or_none() -> None:
    images = ArrayImages(np.arange(50, dtype=np.uint8)[:, None, None, None].repeat(4, 2), np.arange(50) % 10)
    recipe = Train(batch=50, drop_condition=0.3)
    dropped = 0
    for step in range(20):
        batch, plain = (draw_batch(images, recipe, 1, step, CPU, given) for given in (TEN, None))
        assert batch.y is not None and plain.y is None
        for mine, other in zip(batch.tensors, plain.tensors, strict=False):
            assert torch.equal(mine, other)  # images, noise and times are those of a network without a condition
        own = ((batch.x1[:, 0, 0, 0] + 1) * 127.5).round().long() % 10
        assert ((batch.y == own) | (batch.y == 10)).all()
        dropped += int((batch.y == 10).sum())
    assert 0.25 < dropped / 1000 < 0.35
    never = draw_batch(images, Train(batch=50), 1, 0, CPU, NetworkCondition(kind="class", size=10, droppable=False))
    assert never.y is not None and (never.y < 10).all()


def test_every_class_is_drawn_as_often() -> None:
    labels = balanced_labels(1003, 10)
    assert set(np.bincount(labels)) == {100, 101}
    assert np.array_equal(labels, balanced_labels(1003, 10))
    assert (labels[:100] != np.sort(labels[:100])).any()


def shifted(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A velocity equal to its label, and -3 for the null label."""
    return torch.where(y == 10, -3.0, y.float())[:, None, None, None].expand_as(x)


def test_images_are_drawn_under_their_labels_for_any_batch(write_suite) -> None:
    cell = plan(write_suite(ALONE, CONDITIONED, GUIDED)).cells[0]
    assert cell.condition == TEN
    labels = balanced_labels(32, 10)
    for guidance, expected in ((None, labels), (cell.sample.guidance, 2.0 * labels - (-3.0))):
        sample = cell.sample.model_copy(update={"guidance": guidance})
        own = cell.model_copy(update={"sample": sample})
        seen = []

        def network(x, t, y, seen=seen):
            seen.append(x.clone())
            return shifted(x, t, y)

        sample_part(own, range(8, 24), network, Device("cpu", "test"))
        moved = 2 * (seen[1] - seen[0])[:16]  # two steps of one half each
        np.testing.assert_allclose(moved.mean((1, 2, 3)), expected[8:24], atol=1e-4)


def test_a_scale_of_one_is_the_condition_alone() -> None:
    x, t, y = torch.randn(4, 1, 2, 2), torch.rand(4), torch.arange(4)
    told = with_guidance(shifted, y, torch.full_like(y, 10), Guidance(scale=1.0))(x, t)
    torch.testing.assert_close(told, shifted(x, t, y))


def test_the_validation_loss_is_under_the_true_classes() -> None:
    rng = np.random.default_rng(0)
    images = ArrayImages(rng.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8), np.arange(6))
    asked: list[int] = []

    def network(x, t, y):
        asked.extend(y.tolist())
        return torch.zeros_like(x)

    velocity_losses(network, Subset(images, np.array([5, 2, 3])), labelled=True, batch=2)
    assert asked == [5, 2] * 8 + [3] * 8


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ([CONDITIONED, GUIDED], [":12, key sample.guidance", "nothing to guide: the backbone 'zigma'"]),
        ([ALONE, (DIT, "{name: dit, width: 32, depth: 2, patch: 2, condition: class, classes: 10, null_class: false}"),
          GUIDED], ["key sample.guidance", "no null class", "null_class to true"]),
        ([("{batch: 16}", "{batch: 16, drop_condition: 0.2}")], ["key train.drop_condition", "nothing to drop"]),
    ],
)  # fmt: skip
def test_what_cannot_be_guided_or_dropped_is_refused(write_suite, replacements, words) -> None:
    with pytest.raises(UsageError) as caught:
        plan(write_suite(*replacements))
    for word in words:
        assert word in str(caught.value)


def test_what_enters_the_identities(write_suite) -> None:
    def stages(*replacements):
        cell = plan(write_suite(*replacements)).cells[0]
        return [cell.identity(stage, device_model="") for stage in ("train", "sample", "quality")]

    plain, own = stages(ALONE), stages(ALONE, CONDITIONED)
    assert not set(plain) & set(own)
    steered = stages(ALONE, CONDITIONED, GUIDED)
    assert steered[0] == own[0] and not set(steered[1:]) & set(own)
    dropping = stages(ALONE, CONDITIONED, ("{batch: 16}", "{batch: 16, drop_condition: 0.2}"))
    assert not set(dropping) & set(own)
    default = stages(ALONE, CONDITIONED, ("{batch: 16}", "{batch: 16, drop_condition: 0.1}"))
    assert default == own


def test_a_guided_suite_ends_in_a_table(write_suite, tmp_path) -> None:
    path = write_suite(ALONE, CONDITIONED, GUIDED, ("seeds: [0, 1]", "seeds: [0]"))
    command = [sys.executable, "-m", "zigma_bench", "run", str(path), "--results", str(tmp_path / "r"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["role"] for row in rows] == ["floor", "cell", "ceiling"]
    assert np.isfinite(rows[1]["metrics"]["val-loss"]["mean"])


def test_a_network_learns_what_its_labels_mean(tmp_path) -> None:
    """Dark images of class 0 and bright images of class 1, from noise: only the label determines which."""
    pixels = np.repeat(np.array([40, 215], dtype=np.uint8), 32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    images = ArrayImages(pixels, np.repeat(np.arange(2), 32))
    spec = catalogue().get("backbone", "dit")
    options = spec.make_options({"width": 32, "depth": 1, "patch": 2, "condition": "class", "classes": 2})
    network = spec.load()(options, grid=Grid(2, 2), channels=1, routes=(), backend="torch")
    initialise_network(network, 0)
    given = NetworkCondition(kind="class", size=2, droppable=True)
    ema, _ = train_network(
        network, images, recipe=Train(batch=32, learning_rate=3e-3, ema=0.9), goal=TrainingGoal(150, None), seed=0,
        device=CPU, folder=tmp_path, on_progress=lambda done, text: None, stopped=lambda: False, condition=given,
    )  # fmt: skip
    x, t = torch.randn(64, 1, 4, 4), torch.zeros(64)
    with torch.no_grad():
        means = [float((ema(x, t, torch.full((64,), y)) + x).mean()) for y in (0, 1, 2)]  # E[x1], from noise alone
    assert means[0] == pytest.approx(40 / 127.5 - 1, abs=0.15)
    assert means[1] == pytest.approx(215 / 127.5 - 1, abs=0.15)
    assert means[2] == pytest.approx(0.0, abs=0.35)  # the dropped label: either
