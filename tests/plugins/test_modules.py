"""A plain nn.Module as a backbone: its options, its initial weights, its cost, and its errors."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from zigma_bench import hookimpl
from zigma_bench.backbones.counted import counted_cost
from zigma_bench.errors import BrokenPlugin, NotReady, UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.discovery import specs_of
from zigma_bench.plugins.registry import BackboneFacts, Condition, DataFacts
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.testing import report_of

BUILT = []


class Mine(nn.Module):
    """A linear layer on the pixels of each patch."""

    def __init__(self, channels, *, height, width, patch: int = 2, depth: int = 1):
        super().__init__()
        BUILT.append((channels, height, width))
        self.layers = nn.Sequential(*(nn.Linear(channels * height * width, 5) for _ in range(depth)))
        self.back = nn.Linear(5, channels * height * width)

    def forward(self, x, t):
        return self.back(self.layers[0](x.flatten(1))).view_as(x) * t[:, None, None, None]


class Ordered(nn.Module):
    """Adds a weight to the first token of the path of each layer."""

    def __init__(self, routes, grid, depth: int = 2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(routes)))
        self.first = [int(route.paths[0][0]) for route in routes]
        self.tokens, self.sides = grid.tokens, (grid.height, grid.width)

    def forward(self, x, t, condition=None):
        x = x.flatten(2) * t[:, None, None]
        for layer, token in enumerate(self.first):
            x = x + self.weight[layer] * nn.functional.one_hot(torch.tensor(token), self.tokens)
        return x.unflatten(2, self.sides)


class Texts(nn.Module):
    """A shift by the mean of the text's features."""

    def __init__(self, channels, text_width, text_tokens):
        super().__init__()
        self.shift = nn.Linear(text_width, channels)

    def forward(self, x, t, condition):
        return x * t[:, None, None, None] + self.shift(condition.mean(1))[:, :, None, None]


def plugin(target, **rest) -> ModuleType:
    made = ModuleType("made")
    made.register_backbones = hookimpl(lambda register: register("mine", target, **rest), specname=None)
    made.register_backbones.__name__ = "register_backbones"
    return made


def spec_of(target, **rest):
    (spec,) = specs_of(plugin(target, **rest), "made", "made 1.0")
    return spec


def build(spec, seed=0, routes=(), grid=None, channels=1, **options):
    chosen = spec.make_options(spec.resolve(options, where="here"))
    grid = grid or Grid(4, 4)
    network = spec.load()(chosen, grid=grid, channels=channels, routes=routes, backend="torch")
    initialise_network(network, seed)
    return network


def test_parameters_are_options_except_those_that_are_filled_in():
    spec = spec_of(Mine)
    assert [(option.name, option.default) for option in spec.options] == [("patch", 2), ("depth", 1)]
    assert (spec.doc, spec.facts.order) == ("A linear layer on the pixels of each patch.", "free")
    build(spec, channels=3, grid=Grid(2, 4))
    assert BUILT[-1] == (3, 4, 8)  # pixels: tokens times the patch
    ordered = spec_of(Ordered)
    assert (ordered.facts.order, [option.name for option in ordered.options]) == ("scan", ["depth"])


def test_initial_weights_belong_to_the_seed_alone():
    spec = spec_of(Mine)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build(spec, seed=3)
    assert torch.equal(torch.rand(3), expected)  # the global generator continues as if nothing had been built
    torch.manual_seed(6)
    again, other = build(spec, seed=3), build(spec, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.module.back.weight, other.module.back.weight)
    bound = 1 / 5**0.5  # PyTorch's own initialisation of the last layer
    assert 0.5 * bound < first.module.back.weight.abs().max() <= bound


def test_two_orders_begin_with_the_same_weights():
    spec, grid = spec_of(Ordered), Grid(4, 4)
    one, other = (
        build(spec, routes=(Route(path),) * 2, grid=grid) for path in (list(range(16)), list(range(15, -1, -1)))
    )
    assert torch.equal(one.module.weight, other.module.weight)
    x, t = torch.zeros(1, 1, 4, 4), torch.ones(1)
    assert not torch.equal(one(x, t), other(x, t))


def test_a_cost_is_counted_once_for_each_shape():
    spec = spec_of(Mine)
    options, before = spec.make_options(spec.resolve({}, where="here")), len(BUILT)
    shape = {"grid": Grid(4, 4), "channels": 1, "routes": ()}
    first = spec.facts.cost(options, **shape)
    assert (first.parameters, dict(first.forward_flops), first.flops_by) == (
        64 * 5 + 5 + 5 * 64 + 64, {"addmm": 2 * 2 * 64 * 5}, "counter",
    )  # fmt: skip
    assert spec.facts.cost(options, **shape) == first and len(BUILT) == before + 1
    assert spec.facts.cost(options, grid=Grid(2, 4), channels=1, routes=()) != first and len(BUILT) == before + 2


def test_attention_is_counted():
    class Attending(nn.Module):
        """Attention among all pixels."""

        def __init__(self, channels):
            super().__init__()

        def forward(self, x, t):
            q = x.flatten(2).transpose(1, 2)[:, None]
            return nn.functional.scaled_dot_product_attention(q, q, q)[:, 0].transpose(1, 2).view_as(x)

    spec = spec_of(Attending)
    cost = counted_cost(spec, spec.make_options({}), grid=Grid(4, 4), channels=3, routes=())
    assert cost.total_flops == 2 * 2 * 16 * 16 * 3


def test_the_data_fills_in_the_condition():
    spec = spec_of(Texts)
    options = spec.resolve({}, where="here")
    data = DataFacts(1, 4, 4, "made", conditions=(Condition("class", 10), Condition("text", 16, tokens=7)))
    filled = {**options, **spec.facts.fill(options, data)}
    assert filled == {"text_width": 16, "text_tokens": 7}
    assert spec.facts.condition(spec.make_options(filled)) == Condition("text", 16, tokens=7)
    assert spec.facts.fill({"text_width": 8, "text_tokens": 3}, data) == {}  # values of the suite have priority
    with pytest.raises(NotReady, match="needs the channels of text features, which doesn't follow from the data"):
        spec.facts.condition(spec.make_options(options))
    network = build(spec, **filled)
    with pytest.raises(UsageError, match="expected text features of 7 tokens with 16 channels; got 'no condition'"):
        network(torch.zeros(1, 1, 4, 4), torch.zeros(1))


@pytest.mark.parametrize("target", [Mine, Ordered, Texts], ids=lambda target: target.__name__)
def test_they_pass_what_plugins_are_checked_by(target):
    report_of(spec_of(target)).require()


class Flattened(nn.Module):
    """Returns another shape."""

    def forward(self, x, t):
        return x.flatten(1)


def fails(channels):
    """Raises."""
    raise ValueError("as asked")


def of_any(*arguments):
    """Takes anything."""


def with_default(channels=3):
    """Has a default for what is filled in."""


def ambiguous(width):
    """Means its own width."""


def both(classes, text_width):
    """Takes two conditions."""


def without_type(channels, dim=3):
    """Has an option without a type."""


def deep(channels, depth: str = "4"):
    """Has a depth that is no number."""


def undocumented(channels):
    return nn.Identity()


class Undocumented(nn.Module):
    def __init__(self, channels):
        super().__init__()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (of_any, "has the parameter '\\*arguments'; expected parameters that can be passed by name"),
        (with_default, "has a default for 'channels', which the framework sets"),
        (ambiguous, "has the parameter 'width' without 'height'.*rename the parameter if it is the width of the net"),
        (both, "has both 'classes' and 'text_width'"),
        (without_type, "has the option 'dim' without a type annotation"),
        (deep, "has an option 'depth' of another type; expected int"),
        (undocumented, "'undocumented' has no docstring"),
        (Undocumented, "'Undocumented' has no docstring"),  # nn.Module's own says nothing of it
        (3, "is not a class or a function"),
    ],
)
def test_what_can_be_no_backbone_is_refused_when_it_registers(target, words):
    with pytest.raises(UsageError, match=words):
        spec_of(target)


def test_faults_of_a_module_name_it():
    spec = spec_of(fails)
    options = spec.make_options({})
    with pytest.raises(
        BrokenPlugin, match=r"`cost` of the backbone 'mine' of made 1\.0 failed with ValueError: as asked"
    ):
        spec.facts.cost(options, grid=Grid(4, 4), channels=1, routes=())
    with pytest.raises(NotReady, match="only supports single images; got 'clips of 3 frames'"):
        spec.facts.check(options, grid=Grid(4, 4, 3), routes=())
    short = spec_of(Flattened)
    with pytest.raises(UsageError, match=r"doesn't have the shape of its input; expected \[1, 1, 4, 4\]"):
        build(short)(torch.zeros(1, 1, 4, 4), torch.zeros(1))
    with pytest.raises(UsageError, match="is not a module"):
        build(spec_of(lambda channels: channels, doc="No module."))
    unread = spec_of(lambda classes: nn.Bilinear(1, 1, 1), doc="A condition that forward does not take.")
    with pytest.raises(UsageError, match=r"but forward has no parameter for it; expected forward\(x, t, condition\)"):
        build(unread, classes=3)


def test_a_backbone_with_facts_but_no_formula_is_counted_too():
    spec = spec_of(Mine)
    facts = BackboneFacts(order="free")
    full = spec_of(spec.target, options=spec.options_class, facts=facts, doc="Mine, with facts.")
    options = full.make_options(full.resolve({}, where="here"))
    assert full.facts.cost(options, grid=Grid(4, 4), channels=1, routes=()).flops_by == "counter"
