"""Bad steps: located before they reach the weights; and the loss scale of fp16."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import Interrupted, NotFinite
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.mamba import mixer as mixer_module
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.suite import Train
from zigma_bench.training.fault import find_fault, uncompiled_copy
from zigma_bench.training.health import FIRST_SCALE, GROWTH_STEPS, Health
from zigma_bench.training.loop import TrainingGoal, train_network
from zigma_bench.training.step import draw_batch, loss_of, step_seed

CPU = torch.device("cpu")
IMAGES = ArrayImages(np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8))
SEED = 3


def build(name="zigma", depth=3, **options):
    """A small network whose gates are open, so that every block has a share in the output."""
    spec = catalogue().get("backbone", name)
    chosen = spec.make_options(spec.resolve({"width": 32, "depth": depth, "patch": 2, **options}, where="test"))
    grid = Grid(4, 4)
    scan = spec.facts.default_scan or "zigzag"
    orders = layer_routes(catalogue().get("scan", scan), grid=grid, depth=depth, seed=0,
                    options=catalogue().get("scan", scan).resolve({}, where="test"))  # fmt: skip
    network = spec.load()(chosen, grid=grid, channels=1, routes=orders, backend="torch")
    initialise_network(network, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network


def run(network, folder, steps=30, stopped=lambda: False, **recipe):
    recipe = Train(**{"batch": 8, "learning_rate": 1e-3, "ema": 0.5, **recipe})
    return train_network(
        network, IMAGES, recipe=recipe, goal=TrainingGoal(steps, None), seed=SEED, device=CPU, folder=folder,
        on_progress=lambda done, text: None, stopped=stopped,
    )  # fmt: skip


def at_step(step):
    """Whether the step, counted from 1, is being computed: each seeds the global generator with its own number."""
    return torch.initial_seed() == step_seed(SEED, step - 1, 4)


class Poison(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


def spoil(network, place, step, *, value=torch.nan, backward=False):
    """Make the output of one module NaN (or its gradient) whenever a step is computed."""

    def hook(module, args, output):
        if not at_step(step):
            return output
        return Poison.apply(output) if backward else output * value

    network.get_submodule(place).register_forward_hook(hook)


@pytest.mark.parametrize(
    ("place", "step"),  # a check every 20 steps, and one at the end
    [
        ("blocks.1.mixer", 1),
        ("blocks.2.mixer.out_proj", 7),
        ("time_embed", 20),
        ("head", 21),
        ("blocks.0.modulation", 22),
    ],
)
def test_a_nan_in_the_forward_pass_is_named(tmp_path, place, step):
    network = build()
    spoil(network, place, step)
    with pytest.raises(NotFinite) as caught:
        run(network, tmp_path, steps=22)
    expected = f"the loss became nan at step {step}: it began in the forward pass, in the output of {place} (nan)"
    assert expected in str(caught.value)


@pytest.mark.parametrize(("name", "place"), [("dit", "blocks.1.attention.qkv"), ("vision-mamba", "blocks.2.mixer")])
def test_other_networks(tmp_path, name, place):
    network = build(name)
    spoil(network, place, 5, value=torch.inf)
    with pytest.raises(NotFinite, match=rf"step 5: it began in the forward pass, in the output of {place} \(inf\)"):
        run(network, tmp_path, steps=6)


def test_a_nan_between_two_modules_is_named_by_the_one_that_takes_it(tmp_path):
    """As in a mixer whose inside is one operator and no module."""

    class Bare(nn.Module):
        def __init__(self, mixer, spoilt):
            super().__init__()
            self.in_proj, self.out_proj, self.spoilt = mixer.in_proj, mixer.out_proj, spoilt

        def forward(self, x):
            x, z = self.in_proj(x).chunk(2, dim=-1)
            return self.out_proj(x * z * (torch.nan if self.spoilt and at_step(4) else 1))

    network = build()
    for number, block in enumerate(network.blocks):
        block.mixer = Bare(block.mixer, number == 1)
    with pytest.raises(NotFinite, match=r"step 4: .*forward pass, in the input of blocks.1.mixer.out_proj \(nan\)"):
        run(network, tmp_path, steps=5)


@pytest.mark.parametrize(
    ("place", "step"), [("blocks.1.mixer.branches.0.x_proj", 2), ("blocks.2.mixer.out_proj", 20), ("patch_embed", 1)]
)
def test_a_nan_in_the_backward_pass_is_named_and_reaches_no_weight(tmp_path, place, step):
    """The gradient of the module's own output is NaN, which no hook sees; the first seen NaN is in what it computes
    from it."""
    network, whole = build(), build()
    spoil(network, place, step, backward=True)
    with pytest.raises(NotFinite) as caught:
        run(network, tmp_path / "a", steps=step + 1)
    assert f"the gradient became infinite or NaN at step {step}: it began in the backward pass" in str(caught.value)
    assert re.search(rf"gradient of (the weights|the input of) {place}\b", str(caught.value)), caught.value
    if step > 1:
        run(whole, tmp_path / "b", steps=step - 1)
    for parameter, right in zip(network.parameters(), whole.parameters(), strict=True):
        assert torch.equal(parameter, right)  # as the step found them


def test_a_gradient_that_breaks_between_modules_names_both_sides(tmp_path):
    """Between the output of one module and the next that takes it: the gradient of that output is the first."""

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x, t):
            hidden = self.first(x.flatten(1))
            return self.second(Poison.apply(hidden) if at_step(3) else hidden).reshape(x.shape)

    with pytest.raises(NotFinite, match=r"step 3: .* in the gradient of the output of first \(nan\)"):
        run(Broken(), tmp_path)


def test_a_fault_that_does_not_repeat_is_reported_as_such(tmp_path):
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(64, 64), 0

        def forward(self, x, t):
            self.calls += torch.is_grad_enabled()
            return self.layer(x.flatten(1)).reshape(x.shape) * (torch.nan if self.calls == 7 else 1)

    with pytest.raises(
        NotFinite, match="nan at step 7: when run again, the same step was finite; lower the learning rate"
    ):
        run(Once(), tmp_path)


def test_weights_that_are_broken_from_the_start():
    network = build()
    with torch.no_grad():
        network.blocks[1].mixer.branches[0].A_log[3, 2] = torch.nan
    found = find_fault(network, lambda: torch.zeros(()))
    assert found == "before the step, in the weights blocks.1.mixer.branches.0.A_log"
    assert find_fault(build(), lambda: torch.zeros(())) is None


def test_a_loss_that_overflows_alone():
    """Outputs of 1e30 are finite, their squares are not; what follows in the backward pass is no fault of its own."""
    network = build("dit")
    with torch.no_grad():
        network.head.weight.fill_(1e30)

    def step():
        loss = network(torch.ones(2, 1, 8, 8), torch.zeros(2)).square().mean()
        loss.backward()
        return loss

    assert find_fault(network, step) == "in the loss, although the outputs of the network are finite"


def test_the_search_leaves_no_hook_behind():
    network, plain = build(), build()
    find_fault(network, lambda: network(torch.zeros(2, 1, 8, 8), torch.zeros(2)).sum())
    for module, other in zip(network.modules(), plain.modules(), strict=True):
        assert len(module._forward_hooks) == len(other._forward_hooks) == 0
        assert len(module._forward_pre_hooks) == 0
    assert all(not parameter._backward_hooks for parameter in network.parameters())


def test_a_compiled_network_is_searched_as_a_plain_copy():
    """Compiled code calls no hooks."""
    network = build()
    spoil(network, "blocks.1.mixer", 1)
    network.blocks.compile(backend="eager")
    plain = uncompiled_copy(network)
    assert network.blocks._compiled_call_impl is not None
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))
    place = find_fault(plain, lambda: loss_of(plain, draw_batch(IMAGES, Train(batch=8), SEED, 0, CPU), Train(batch=8)))
    assert place == "in the forward pass, in the output of blocks.1.mixer (nan)"


def test_float16_activations_that_overflow_are_named(tmp_path):
    """No injection: the weights make activations beyond 65504."""
    network = build("dit")
    with torch.no_grad():
        network.blocks[1].mlp.out.weight.mul_(1e8)
    with pytest.raises(NotFinite, match=r"step 1: .*forward pass, in the output of blocks.1.mlp.out \(\w+\).*bf16"):
        run(network, tmp_path, precision="fp16")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", ["zigma", "dit"])
def test_all_precisions_learn(tmp_path, name, precision):
    network = build(name, depth=2)
    _, progress = run(network, tmp_path, steps=40, precision=precision, learning_rate=3e-3)
    assert progress.curve[-1][1] < 0.9 * progress.curve[0][1]
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert (progress.scaling != {}) == (precision == "fp16")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["zigma", "vision-mamba"])
def test_what_decays_and_the_residual_stay_float32(monkeypatch, name, precision):
    """A, D and dt bias in the scan, the stream between blocks, and all gradients are float32; the rest is 16 bits."""
    scan, seen, streams = mixer_module.selective_scan, [], []

    def watching(u, delta, A, B, C, **rest):
        seen.append({"u": u.dtype, "A": A.dtype, "D": rest["D"].dtype, "bias": rest["delta_bias"].dtype})
        return scan(u, delta, A, B, C, **rest)

    monkeypatch.setattr(mixer_module, "selective_scan", watching)
    network = build(name)
    for block in network.blocks:
        block.register_forward_hook(lambda module, args, output: streams.append(output[1].dtype))
    recipe = Train(batch=4, precision=precision)
    loss_of(network, draw_batch(IMAGES, recipe, SEED, 0, CPU), recipe).backward()
    short = torch.float16 if precision == "fp16" else torch.bfloat16
    expected = {"u": short, "A": torch.float32, "D": torch.float32, "bias": torch.float32}
    assert len(seen) == (6 if name == "vision-mamba" else 3)
    assert all(item == expected for item in seen)
    assert set(streams) == {torch.float32}
    for parameter in network.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32


class Spiky(nn.Module):
    """One linear layer whose gradient is multiplied at some calls, so that the scaled one overflows there."""

    def __init__(self, spikes):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.spikes, self.calls = nn.Linear(8, 1), spikes, 0

    def forward(self, x):
        self.calls += 1
        out = self.layer(x)
        if self.calls in self.spikes:
            out.register_hook(lambda gradient: gradient * 1e38)
        return out


def test_the_scale_moves_as_that_of_gradscaler():
    """Weights, scale and skipped steps, bit for bit, over overflows and a growth."""
    mine, other = Spiky({3, 4, 10}), Spiky({3, 4, 10})
    health = Health(CPU, scaled=True)
    health.resume(0, {"scale": FIRST_SCALE, "good_steps": GROWTH_STEPS - 1, "skipped_steps": 0})
    scaler = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE, growth_interval=GROWTH_STEPS)
    scaler.load_state_dict({**scaler.state_dict(), "_growth_tracker": GROWTH_STEPS - 1})
    optimizers = [torch.optim.AdamW(network.parameters(), lr=0.1, fused=True) for network in (mine, other)]
    for step in range(15):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        losses = []
        for network, optimizer in zip((mine, other), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(network(x).square().mean())
        health.backward(losses[0])
        health.update(mine, optimizers[0], losses[0].detach(), clip=None)
        scaler.scale(losses[1]).backward()
        scaler.step(optimizers[1])
        scaler.update()
        assert health.scale.item() == scaler.get_scale()
        for a, b in zip(mine.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert health.state() == {"scale": FIRST_SCALE * 2 / 8, "good_steps": 5, "skipped_steps": 3}
    assert health.first_bad == 0


def test_a_gradient_that_overflows_at_any_scale_is_bad():
    network = Spiky(set(range(100)))
    optimizer, health = torch.optim.AdamW(network.parameters(), fused=True), Health(CPU, scaled=True)
    before = copy.deepcopy(network.state_dict())
    for _ in range(29):
        optimizer.zero_grad()
        loss = (1e3 * network(torch.ones(4, 8))).square().mean()
        health.backward(loss)
        health.update(network, optimizer, loss.detach(), clip=1.0)
    assert health.state() == {"scale": 1.0, "good_steps": health.good_steps.item(), "skipped_steps": 16}
    assert health.first_bad == 17
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_clipping_sees_the_gradient_without_its_scale():
    """A step clipped to a norm of 1e-3 is the same under any scale."""
    found = []
    for scaled in (False, True):
        network = Spiky(set())
        optimizer, health = torch.optim.SGD(network.parameters(), lr=1.0, fused=True), Health(CPU, scaled=scaled)
        loss = network(torch.ones(4, 8)).square().mean()
        health.backward(loss)
        health.update(network, optimizer, loss.detach(), clip=1e-3)
        found.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    start = torch.cat([parameter.detach().flatten() for parameter in Spiky(set()).parameters()])
    assert (found[0] - start).norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(found[0], found[1])


def test_the_scale_continues_after_a_stop(tmp_path, monkeypatch):
    """A stopped and resumed fp16 training ends with the same weights, scale and count as an uninterrupted one."""
    monkeypatch.setattr(
        "zigma_bench.training.health.FIRST_SCALE", 2.0**40
    )  # too large at first: some steps are skipped
    whole = build(depth=2)
    _, progress = run(whole, tmp_path / "a", precision="fp16")
    assert progress.scaling["skipped_steps"] > 0
    assert progress.scaling["scale"] < 2.0**40
    again, looks = build(depth=2), []
    with pytest.raises(Interrupted):
        run(again, tmp_path / "b", precision="fp16", stopped=lambda: len(looks) > 9 or bool(looks.append(1)))
    again = build(depth=2)
    _, resumed = run(again, tmp_path / "b", precision="fp16")
    assert resumed.scaling == progress.scaling
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
