"""The EMA of the weights: its warm-up removes the initial weights even in a short training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import Interrupted
from zigma_bench.suite import Train
from zigma_bench.training.ema import ema_decay, update_ema
from zigma_bench.training.loop import TrainingGoal, train_network

IMAGES = ArrayImages(np.random.default_rng(0).integers(0, 256, (50, 1, 4, 4), dtype=np.uint8))
STEPS = 12


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(17, 16)

    def forward(self, x, t):
        return self.layer(torch.cat([x.flatten(1), t[:, None]], dim=1)).reshape(x.shape)


def run(folder, steps, stop_at=None, **recipe):
    """The network, and the average of its weights."""
    network, looks = Tiny(), iter(range(1, 10_000))
    ema, _ = train_network(
        network, IMAGES, recipe=Train(**{"batch": 8, "learning_rate": 1e-2, **recipe}), goal=TrainingGoal(steps, None),
        seed=3, device=torch.device("cpu"), folder=folder, on_progress=lambda done, text: None,
        stopped=lambda: stop_at is not None and next(looks) >= stop_at,
    )  # fmt: skip
    return network, ema


def flat(network):
    return torch.cat([parameter.detach().double().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.4}, {"ema": 0.9, "ema_warmup": False}, {"ema": 0.0}])
def test_the_average_is_that_of_a_loop_written_by_hand(tmp_path, recipe):
    average, chosen = flat(Tiny()), Train(**recipe)
    for step in range(STEPS):
        network, ema = run(tmp_path / str(step), step + 1, **recipe)
        decay = chosen.ema if not chosen.ema_warmup else 0 if step == 0 else min(chosen.ema, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * flat(network)
        assert torch.allclose(flat(ema), average, rtol=0, atol=1e-6)


def test_the_average_is_that_of_diffusers():
    EMAModel = pytest.importorskip("diffusers.training_utils").EMAModel

    network, recipe = Tiny(), Train(ema=0.9)  # which the warm-up reaches after 80 steps
    ours, theirs = copy.deepcopy(network), EMAModel(network.parameters(), decay=recipe.ema)
    draw = torch.Generator().manual_seed(0)
    for step in range(120):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw))
        update_ema(ours, network, ema_decay(recipe, step))
        theirs.step(network.parameters())
        assert theirs.cur_decay_value == pytest.approx(ema_decay(recipe, step))
    assert ema_decay(recipe, 79) < ema_decay(recipe, 80) == ema_decay(recipe, 10**9) == 0.9
    for one, other in zip(ours.parameters(), theirs.shadow_params, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 30, 200])
def test_a_short_training_is_not_averaged_with_its_first_weights(tmp_path, steps):
    first = flat(Tiny())
    network, ema = run(tmp_path / "warm", steps)
    moved = (flat(network) - first).norm()
    assert (flat(network) - flat(ema)).norm() < 0.25 * moved
    again, plain = run(tmp_path / "plain", steps, ema_warmup=False)
    assert torch.equal(flat(again), flat(network))
    assert (flat(plain) - first).norm() < 0.05 * moved


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.5, 0.9999, torch.tensor(0.9999, dtype=torch.float64)])
def test_the_average_of_constant_weights_is_the_weights(decay):
    network = Tiny()
    average = copy.deepcopy(network)
    for _ in range(20):
        update_ema(average, network, decay)
    assert torch.equal(flat(average), flat(network))


@pytest.mark.parametrize("decay", [0.0, 0.75, 0.9999])
def test_a_decay_on_the_device_is_the_number(decay):
    found = []
    for given in (decay, torch.tensor(decay, dtype=torch.float64)):
        average, network = Tiny(), Tiny()
        with torch.no_grad():
            network.layer.weight.normal_(generator=torch.Generator().manual_seed(1))
        update_ema(average, network, given)
        found.append(flat(average))
    assert torch.equal(*found)


@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_a_training_that_was_stopped_within_the_warm_up_ends_with_the_same_average(tmp_path, stop_at):
    _, whole = run(tmp_path / "whole", STEPS)
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", STEPS, stop_at=stop_at)
    assert torch.equal(flat(run(tmp_path / "stopped", STEPS)[1]), flat(whole))
