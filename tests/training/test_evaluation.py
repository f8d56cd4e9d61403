"""Quality during training leaves the training as it is, and a resumed training gives the same curve."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import Interrupted, NotFinite
from zigma_bench.suite import Train
from zigma_bench.training.evaluation import Evaluation
from zigma_bench.training.loop import TrainingGoal, train_network

IMAGES = ArrayImages(np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), dtype=np.uint8))
RECIPE = Train(batch=8, learning_rate=1e-2, ema=0.5, schedule="cosine", flip=True)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(17, 16)
        self.drop = nn.Dropout(0.2)

    def forward(self, x, t):
        flat = torch.cat([x.flatten(1), t[:, None]], dim=1)
        return self.drop(self.layer(flat)).reshape(x.shape)


def measure(ema):
    """A value of the averaged weights, computed with numbers from the global generator."""
    torch.rand(5)
    total = sum(float(parameter.sum()) for parameter in ema.parameters())
    assert not ema.training
    return {"sum": total, "none": None}, {"none": "no reason"}


def run(folder, *, every=24, steps=20, stop_at=None, network=None, measured=measure, checkpoint_seconds=60.0):
    seen: list[int] = []

    def stopped():
        seen.append(1)
        return stop_at is not None and len(seen) >= stop_at

    network = network or Tiny()
    _, progress = train_network(
        network, IMAGES, recipe=RECIPE.model_copy(update={"checkpoint_seconds": checkpoint_seconds}),
        goal=TrainingGoal(steps, None), seed=3, device=torch.device("cpu"), folder=folder,
        on_progress=lambda done, text: None, stopped=stopped,
        evaluation=None if every is None else Evaluation(every, len(IMAGES), measured),
    )  # fmt: skip
    return network, progress


def curve(progress):
    return [{key: point[key] for key in ("images", "epochs", "values", "reasons")} for point in progress.quality]


def test_the_training_is_the_same_with_and_without(tmp_path):
    plain, without = run(tmp_path / "a", every=None)
    network, progress = run(tmp_path / "b")
    for one, other in zip(plain.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert progress.curve == without.curve and without.quality == []


def test_points_are_at_multiples_and_at_the_end(tmp_path):
    """A batch is 8 images: 20 is reached by the third step, 40 by the fifth, and the budget ends at 72."""
    _, progress = run(tmp_path, every=20, steps=9)
    assert [point["images"] for point in progress.quality] == [24, 40, 64, 72]
    assert [point["epochs"] for point in progress.quality] == [24 / 50, 40 / 50, 64 / 50, 72 / 50]
    _, progress = run(tmp_path / "long", every=10**9, steps=9)
    assert [point["images"] for point in progress.quality] == [72]
    _, progress = run(tmp_path / "equal", every=36, steps=9)
    assert [point["images"] for point in progress.quality] == [40, 72]  # one point at the end, not two


@pytest.mark.parametrize("stop_at", [1, 3, 7, 19])
def test_a_stopped_training_resumes_to_the_same_curve(tmp_path, stop_at):
    _, whole = run(tmp_path / "a")
    with pytest.raises(Interrupted):
        run(tmp_path / "b", stop_at=stop_at)
    _, again = run(tmp_path / "b")
    assert curve(again) == curve(whole)


def test_a_killed_training_resumes_to_the_same_curve_from_any_checkpoint(tmp_path):
    _, whole = run(tmp_path / "a", checkpoint_seconds=1e-9)
    calls: list[int] = []

    def killed(ema):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(ema)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", checkpoint_seconds=1e-9, measured=killed)
    _, again = run(tmp_path / "b")
    assert curve(again) == curve(whole)


def test_the_seconds_of_the_training_do_not_include_it(tmp_path):
    def slow(ema):
        time.sleep(0.15)
        return {"x": 0.0}, {}

    began = time.monotonic()
    _, progress = run(tmp_path, measured=slow)
    spent = time.monotonic() - began
    assert len(progress.quality) == 7
    assert progress.seconds < spent - 6 * 0.15
    seconds = [point["seconds"] for point in progress.quality]
    assert seconds == sorted(seconds) and seconds[-1] == progress.seconds


def test_a_nan_is_reported_before_it_is_measured(tmp_path):
    class Breaks(Tiny):
        calls = 0

        def forward(self, x, t):
            self.calls += torch.is_grad_enabled()
            out = super().forward(x, t)
            return out * torch.nan if self.calls == 5 else out

    with pytest.raises(NotFinite, match="at step 5"):
        run(tmp_path, every=40, network=Breaks())
