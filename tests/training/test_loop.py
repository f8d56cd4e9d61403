"""Training: the same after a restart, the same data for every network, and NaN is detected."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import Interrupted, NotFinite
from zigma_bench.suite import Train
from zigma_bench.training import loop
from zigma_bench.training.batch_plan import batch_indices
from zigma_bench.training.checkpoint import load_checkpoint, save_checkpoint
from zigma_bench.training.ema import update_ema
from zigma_bench.training.loop import TrainingGoal, learning_rate, train_network
from zigma_bench.training.step import draw_batch, loss_of

IMAGES = ArrayImages(np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), dtype=np.uint8))
RECIPE = Train(batch=8, learning_rate=1e-2, ema=0.5, schedule="cosine", warmup_images=16, gradient_clip=1.0, flip=True)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(17, 16)
        self.drop = nn.Dropout(0.2)

    def forward(self, x, t):
        flat = torch.cat([x.flatten(1), t[:, None]], dim=1)
        return self.drop(self.layer(flat)).reshape(x.shape)


def run(folder, steps=30, stop_at=None, network=None, images=IMAGES, workers="auto"):
    network = network or Tiny()
    seen: list[int] = []

    def stopped():
        seen.append(1)
        return stop_at is not None and len(seen) >= stop_at

    recipe = RECIPE.model_copy(update={"workers": workers})
    ema, progress = train_network(
        network, images, recipe=recipe, goal=TrainingGoal(steps, None), seed=3, device=torch.device("cpu"),
        folder=folder, on_progress=lambda done, text: None, stopped=stopped,
    )  # fmt: skip
    return network, ema, progress


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path):
    whole, whole_ema, progress = run(tmp_path / "a")
    with pytest.raises(Interrupted):
        run(tmp_path / "b", stop_at=13)
    again, again_ema, again_progress = run(tmp_path / "b")
    for one, other in ((whole, again), (whole_ema, again_ema)):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    assert progress.step == 30
    assert progress.curve[-1][0] == 240
    assert progress.curve == again_progress.curve  # the loss is checked at the same steps, regardless of stops


class Decoded(ArrayImages):
    """The same images, but slow to load."""

    decodes = True

    def take(self, indices):
        time.sleep(0.002)
        return super().take(indices)


def test_processes_and_a_stop_change_nothing_and_the_wait_is_counted(tmp_path, monkeypatch):
    _, whole, plain = run(tmp_path / "a", images=IMAGES)
    assert plain.workers == 0
    images = Decoded(IMAGES.pixels)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # so that a process can import the class
    monkeypatch.setattr(Decoded, "__module__", Path(__file__).stem)
    monkeypatch.setitem(sys.modules, Path(__file__).stem, sys.modules[run.__module__])
    with pytest.raises(Interrupted):
        run(tmp_path / "b", stop_at=13, images=images)
    _, ahead, progress = run(tmp_path / "b", images=images)
    assert progress.workers >= 1 and 0 < progress.waited <= progress.seconds
    _, alone, slow = run(tmp_path / "c", images=images, workers=0)
    assert slow.workers == 0 and 30 * 0.002 <= slow.waited <= slow.seconds
    for parameters in zip(whole.parameters(), ahead.parameters(), alone.parameters(), strict=True):
        assert torch.equal(parameters[0], parameters[1]) and torch.equal(parameters[0], parameters[2])
    assert plain.curve == progress.curve == slow.curve


def test_a_broken_checkpoint_is_passed_over(tmp_path):
    network, ema = Tiny(), Tiny()
    optimizer = torch.optim.AdamW(network.parameters())
    network.layer.weight.sum().backward()
    optimizer.step()
    for step in (5, 10, 15):
        with torch.no_grad():
            network.layer.bias.fill_(step)
        save_checkpoint(tmp_path, step, network, ema, optimizer, {"seconds": 0.0, "curve": []})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-000000010", "checkpoint-000000015"]
    weights = tmp_path / "checkpoint-000000015" / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    state = load_checkpoint(tmp_path, network, ema, optimizer)
    assert state["step"] == 10
    assert network.layer.bias[0] == 10


def test_every_epoch_sees_every_image_once_in_another_order():
    first = np.concatenate([batch_indices(50, 10, 0, step) for step in range(5)])
    second = np.concatenate([batch_indices(50, 10, 0, step) for step in range(5, 10)])
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    across = batch_indices(50, 30, 0, 1)  # 20 of the first epoch, 10 of the second
    assert len(set(across[:20])) == 20
    assert not np.array_equal(batch_indices(50, 10, 0, 0), batch_indices(50, 10, 1, 0))
    assert len(batch_indices(3, 10, 0, 0)) == 10  # a batch larger than the set


def test_a_nan_ends_the_training_and_names_the_step(tmp_path):
    class Breaks(Tiny):
        calls = 0

        def forward(self, x, t):
            self.calls += torch.is_grad_enabled()  # the warm-up is no step
            out = super().forward(x, t)
            return out * torch.nan if self.calls == 7 else out

    with pytest.raises(NotFinite, match="at step 7"):
        run(tmp_path, network=Breaks())


def test_the_rate_warms_up_and_decays():
    recipe = Train(batch=10, learning_rate=1.0, warmup_images=90, schedule="cosine")
    assert learning_rate(recipe, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(recipe, 90, 0.0) == 1.0
    assert learning_rate(recipe, 500, 0.5) == pytest.approx(0.5)
    assert learning_rate(recipe, 1000, 1.0) == pytest.approx(0.0)
    constant = Train(batch=10, learning_rate=1.0)
    assert learning_rate(constant, 0, 0.0) == learning_rate(constant, 9999, 0.99) == 1.0


def test_a_budget_of_seconds_ends_and_counts_what_it_saw(tmp_path, monkeypatch):
    clock = iter(np.arange(0, 1000, 0.5))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    _, progress = train_network(
        Tiny(), IMAGES, recipe=RECIPE, goal=TrainingGoal(None, 10.0), seed=0, device=torch.device("cpu"),
        folder=tmp_path, on_progress=lambda done, text: None, stopped=lambda: False,
    )[0:2]  # fmt: skip
    assert progress.seconds >= 10
    assert 5 < progress.step < 20


def test_ema_is_the_stated_average():
    average, network = Tiny(), Tiny()
    with torch.no_grad():
        average.layer.weight.fill_(1.0)
        network.layer.weight.fill_(3.0)
    update_ema(average, network, 0.75)
    assert torch.allclose(average.layer.weight, torch.tensor(1.5))


def test_state_is_plain_json(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, stop_at=4)
    (folder,) = tmp_path.glob("checkpoint-*")
    state = json.loads((folder / "state.json").read_text())
    assert state["step"] == 4
    assert set(json.loads((folder / "manifest.json").read_text())) == {
        "network.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json",
    }  # fmt: skip


def test_dropped_paths_are_drawn_apart_from_the_times():
    """The first uniforms of the global generator must not be the times of the batch."""
    seen = {}

    class Watching(Tiny):
        def forward(self, x, t):
            seen["t"], seen["uniform"] = t.clone(), torch.rand(len(t))
            return super().forward(x, t)

    network = Watching()
    loss_of(network, draw_batch(IMAGES, RECIPE, 3, 0, torch.device("cpu")), RECIPE)
    assert not torch.equal(seen["t"], seen["uniform"])
    assert abs(torch.corrcoef(torch.stack([seen["t"], seen["uniform"]]))[0, 1]) < 0.99
