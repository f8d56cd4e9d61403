"""All registered backbones: the contract, conditions, costs, checkpointed blocks, clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.testing import check_backbone

BUILT_IN = [spec for spec in catalogue().backbones if spec.owner == "zigma-bench"]
GRID, CHANNELS, PATCH = Grid(3, 5), 3, 2
VALUES = {"width": 32, "depth": 3, "patch": PATCH, "heads": 2, "every": 2}
CONDITIONS = {"none": {}, "class": {"classes": 5}, "text": {"text_width": 6, "text_tokens": 4}}


def options_of(spec, **given):
    known = {option.name for option in spec.options}
    chosen = {name: value for name, value in VALUES.items() if name in known}
    drop = {"drop_path": 0.0} if "drop_path" in known else {}
    condition = CONDITIONS[given.get("condition", "none")]
    return spec.make_options(spec.resolve({**chosen, **drop, **condition, **given}, where="test"))


def conditions(spec):
    return [value for value in ("none", "class", "text") if _has(spec, value)]


def _has(spec, value):
    try:
        return options_of(spec, condition=value).condition == value
    except UsageError:
        return False


EVERY = [(spec, condition) for spec in BUILT_IN for condition in conditions(spec)]
every = pytest.mark.parametrize(
    ("spec", "condition"), EVERY, ids=[f"{spec.name}-{condition}" for spec, condition in EVERY]
)


def build(spec, options, grid=GRID, backend="torch"):
    name = spec.facts.default_scan or "zigzag"
    scan = catalogue().get("scan", name)
    made = (
        ()
        if spec.facts.order == "free"
        else layer_routes(scan, grid=grid, depth=options.depth, options=_defaults(scan))
    )
    spec.facts.check(options, grid=grid, routes=made)
    network = spec.load()(options, grid=grid, channels=CHANNELS, routes=made, backend=backend)
    initialise_network(network, 0)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        for parameter in network.parameters():  # gates that start at zero are opened
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return network, made


def _defaults(scan):
    return scan.resolve({}, where="test")


def inputs(options, batch=2, grid=GRID):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(batch, CHANNELS, grid.height * PATCH, grid.width * PATCH, generator=draw)
    y = {
        "none": (),
        "class": (torch.arange(batch) % 5,),
        "text": (torch.randn(batch, 4, 6, generator=draw),),
    }[options.condition]
    return x, torch.linspace(0.1, 0.9, batch), *y


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_it_declares_what_a_plan_asks(spec):
    assert spec.facts.order in ("scan", "free")
    assert spec.facts.sizes
    assert "Differences from" in __import__(spec.target.partition(":")[0], fromlist=["x"]).__doc__ or spec.name in (
        "hybrid",  # which no paper publishes
    )


@every
def test_it_passes_the_check_of_plugins(spec, condition):
    assert check_backbone(spec, condition=condition).ok


@every
def test_the_formulas_equal_the_built_network(spec, condition):
    options = options_of(spec, condition=condition)
    network, made = build(spec, options, backend="naive")
    cost = spec.facts.cost(options, grid=GRID, channels=CHANNELS, routes=made)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    matrix_products = sdpa_kernel(SDPBackend.MATH)  # older counters don't know every fused attention of a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), matrix_products:
        network.eval()(*inputs(options, batch=1))
    unseen = {"conv", "scan"}  # a loop of products and sums, which torch's counter does not see
    assert counter.get_total_flops() == sum(v for k, v in cost.forward_flops.items() if k not in unseen)


@every
def test_training_lowers_the_loss_of_a_batch(spec, condition):
    """Training from the initial weights on noise that it can memorise, with a different condition for each sample."""
    options = options_of(spec, condition=condition)
    network, _ = build(spec, options)
    initialise_network(network, 0)
    x1, t, *y = inputs(options, batch=4)
    x0 = torch.randn(x1.shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses, part = [], t[:, None, None, None]
    for _ in range(25):
        loss = (network(part * x1 + (1 - part) * x0, t, *y) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@every
def test_checkpointed_blocks_change_no_figure(spec, condition):
    """Output, gradients and dropped paths of a training step are exactly the same."""
    found = []
    dropped = {"drop_path": 0.5} if any(option.name == "drop_path" for option in spec.options) else {}
    for checkpointing in (False, True):
        options = options_of(spec, condition=condition, gradient_checkpointing=checkpointing, **dropped)
        network, _ = build(spec, options)
        torch.manual_seed(3)
        y = network.train()(*inputs(options, batch=4))
        y.square().mean().backward()
        found.append([y.detach(), *(parameter.grad for parameter in network.parameters())])
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


def test_checkpointed_blocks_keep_less_for_the_backward_pass():
    spec = catalogue().get("backbone", "zigma")
    kept = []
    for checkpointing in (False, True):
        options = options_of(spec, gradient_checkpointing=checkpointing)
        network, _ = build(spec, options)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            network(*inputs(options))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


@every
def test_it_refuses_what_it_is_not_built_for(spec, condition):
    options = options_of(spec, condition=condition)
    network, _ = build(spec, options)
    x, t, *y = inputs(options)
    with pytest.raises(UsageError, match=r"built for images of another shape.*\[B, 3, 6, 10\]"):
        network(x[..., :-1], t, *y)
    with pytest.raises(UsageError, match="one time per image"):
        network(x, t[:1], *y)
    if condition == "none":
        with pytest.raises(UsageError, match="unconditional network got a condition"):
            network(x, t, torch.zeros(2, dtype=torch.int64))
        return
    words = {"class": "on classes got no labels", "text": "on text got no text features"}[condition]
    with pytest.raises(UsageError, match=words):
        network(x, t)
    with pytest.raises(UsageError, match="of the batch"):
        network(x, t, y[0][:1])


@every
def test_only_networks_of_clips_take_a_clip(spec, condition):
    options = options_of(spec, condition=condition)
    if spec.facts.order == "free":
        with pytest.raises(NotReady, match="can only run on single images"):
            spec.facts.check(options, grid=Grid(3, 5, 2), routes=())


def test_a_patch_that_does_not_divide_is_one_clear_error():
    with pytest.raises(NotReady, match="patches of 8 x 8 do not divide an image of 32 x 36; choose another patch"):
        Grid.of_image(32, 36, 8)


@every
def test_options_of_another_condition_are_refused(spec, condition):
    for other, given in (("class", {"classes": 7}), ("text", {"text_tokens": 9})):
        if other != condition and _has(spec, other):
            with pytest.raises(NotReady, match=f"conditioned on {other}, and this one is not"):
                spec.facts.check(options_of(spec, condition=condition, **given), grid=GRID, routes=())


def test_labels_have_a_class():
    spec = catalogue().get("backbone", "dit")
    options = options_of(spec, condition="class")
    network, _ = build(spec, options)
    x, t, _y = inputs(options)
    network(x, t, torch.tensor([5, 5]))  # the dropped class
    with pytest.raises(UsageError, match=r"class label out of range; expected labels int64 \[2\] from 0 to 5"):
        network(x, t, torch.tensor([0, 6]))
    with pytest.raises(UsageError, match="the labels of the batch"):
        network(x, t, torch.tensor([0.0, 1.0]))
