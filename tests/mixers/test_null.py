"""The null tests: attention, linear attention and the identity give the same output for every order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.errors import NotReady
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.attention.facts import AttentionOptions, check_attention
from zigma_bench.mixers.attention.mixer import AttentionMixer
from zigma_bench.mixers.identity.facts import IdentityOptions, check_identity
from zigma_bench.mixers.identity.mixer import IdentityMixer
from zigma_bench.mixers.lookup import check_mixer_fits, find_mixer
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import PAD, Route
from zigma_bench.testing.null import in_raster, order_matters

GRID, CLIP, DEPTH = Grid(4, 6), Grid(3, 4, 2), 9
BUILT_IN = sorted(spec.name for spec in catalogue().scans if spec.owner == "zigma-bench")
PLAIN = np.arange(24)
ATTENTION = {"name": "attention", "options": {"heads": 2}}
LINEAR = [
    {"name": "linear-attention", "options": {"heads": 2, "feature_map": feature_map}} for feature_map in ("elu", "relu")
]
EXEMPT = {  # the built-in scans for which attention may differ from raster, by the reason
    "tokens only attend to their own segment": {"zigzag-video"},
    "tokens also attend to pads": {"adventurer", "dim", "mamba-r"},
    "each path attends to its own part of the tokens": {"atrous"},
    "the id of a step is added to its key": {"continuous"},
}


def grid_of(name):
    return CLIP if "video" in name else GRID


def layers(name):
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=grid_of(name), depth=DEPTH, seed=0, options=spec.resolve({}, where="test"))


def outputs(mixer, made, grid):
    """The output of a network with positions and open gates."""
    options = ZigmaOptions(width=32, depth=len(made), patch=1, mixer=mixer, drop_path=0.0)
    network = Zigma(options, grid=grid, channels=2, routes=made, backend="torch").eval()
    initialise_network(network, 0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.any() and ".merge." not in name:  # positions, modulations and gates that start at zero
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
        shape = (2, grid.frames, 2, grid.height, grid.width)
        x = torch.randn(shape if grid.video else (2, 2, grid.height, grid.width), generator=draw)
        return network(x, torch.tensor([0.2, 0.8]))


@pytest.mark.parametrize("name", [name for name in BUILT_IN if not any(map(order_matters, layers(name)))])
@pytest.mark.parametrize("mixer", [ATTENTION, *LINEAR], ids=["softmax", "linear elu", "linear relu"])
def test_no_order_changes_attention(name, mixer):
    made, grid = layers(name), grid_of(name)
    expected = outputs(mixer, tuple(map(in_raster, made)), grid)
    torch.testing.assert_close(outputs(mixer, made, grid), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_route_at_all_changes_the_identity(name):
    made, grid = layers(name), grid_of(name)
    expected = outputs("identity", tuple(map(in_raster, made)), grid)
    torch.testing.assert_close(outputs("identity", made, grid), expected, atol=2e-5, rtol=2e-5)


def test_the_same_test_tells_orders_apart_where_the_mixer_knows_them():
    made = layers("zigzag")
    difference = outputs("mamba", made, GRID) - outputs("mamba", tuple(map(in_raster, made)), GRID)
    assert difference.abs().max() > 1e-3


def test_the_routes_that_attention_can_tell_are_these_and_each_has_its_reason():
    found: dict[str, set[str]] = {}
    for name in BUILT_IN:
        for reason in filter(None, map(order_matters, layers(name))):
            found.setdefault(reason, set()).add(name)
    assert found == EXEMPT


ROUTES = {
    "segments": Route(PLAIN[::-1], segments=(np.array([10, 1, 13]),)),
    "pads": Route(np.concatenate((PLAIN[:10], [PAD, PAD], PLAIN[10:])), pads=np.array([[1, 0]])),
    "scatter": Route(PLAIN.reshape(4, 6), merge="scatter"),
    "cascade": Route(np.stack([PLAIN, PLAIN]), merge="cascade", segments=(np.full(4, 6), np.full(4, 6))),
    "step features": Route(PLAIN, step_feature=PLAIN % 3),
}


@pytest.mark.parametrize("kind", [kind for kind in ROUTES if kind != "cascade"])
def test_every_reason_is_a_real_one(kind):
    """For such a route, attention isn't among all tokens."""
    route = ROUTES[kind]
    assert order_matters(route)
    found = []
    for one in (route, in_raster(route)):
        options = ZigmaOptions(width=32, depth=1, patch=1)
        mixer = AttentionMixer(AttentionOptions(), block=options, grid=GRID, route=one, backend="torch")
        initialise_network(mixer, 0)
        if kind == "step features" and one is route:
            with torch.no_grad():
                mixer.routed.branches[0].ids.table.normal_()
        if kind == "scatter" and one is not route:
            continue  # four branches against one: other weights
        found.append(mixer(torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))))
    assert len(found) == 1 or not torch.allclose(found[0], found[1], atol=1e-4)


def attention(route, options=None, width=32):
    block = ZigmaOptions(width=width, depth=2, patch=1)
    mixer = AttentionMixer(options or AttentionOptions(heads=2), block=block, grid=GRID, route=route, backend="torch")
    initialise_network(mixer, 0)
    return mixer


def depends(mixer, width=32):
    """[L, L]: whether output token i depends on input token j."""
    x = torch.randn(1, 24, width, generator=torch.Generator().manual_seed(0))
    base = mixer(x)
    found = np.zeros((24, 24), dtype=bool)
    for j in range(24):
        changed = x.clone()
        changed[:, j] += 1
        found[:, j] = (mixer(changed) - base).abs().amax((0, 2)).numpy() > 1e-7
    return found


@torch.no_grad()
def test_attention_stays_in_its_segment_and_its_part():
    segment = np.repeat([0, 1, 2], [10, 1, 13])[np.argsort(PLAIN[::-1])]
    assert (depends(attention(ROUTES["segments"])) == (segment[:, None] == segment)).all()
    part = PLAIN // 6
    assert (depends(attention(ROUTES["scatter"])) == (part[:, None] == part)).all()
    rows = np.tile(PLAIN.reshape(4, 6).T.reshape(-1), (1, 1))
    both = Route(np.concatenate((PLAIN[None], rows)), merge="cascade", segments=(np.full(4, 6), np.full(6, 4)))
    assert depends(attention(both)).all(), "rows, then columns: every token reaches every other"


@torch.no_grad()
def test_attention_along_a_path_equals_its_definition():
    mixer = attention(Route(np.random.default_rng(0).permutation(24)))
    x = torch.randn(1, 24, 32)
    q, k, v = (part.reshape(24, 2, 16).transpose(0, 1) for part in mixer.routed.branches[0].qkv(x)[0].chunk(3, -1))
    heads = torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v
    expected = mixer.out(heads.transpose(0, 1).reshape(24, 32))
    torch.testing.assert_close(mixer(x)[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mixer", LINEAR, ids=["elu", "relu"])
def test_linear_attention_equals_its_definition(mixer):
    """The weights of all pairs of tokens, computed one by one and divided by their sum."""
    spec, options = find_mixer(mixer)
    block, route = ZigmaOptions(width=32, depth=2, patch=1), Route(np.random.default_rng(0).permutation(24))
    made = spec.load()(options, block=block, grid=GRID, route=route, backend="torch")
    initialise_network(made, 0)
    x = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(0))
    q, k, v = (part.reshape(24, 2, 16).transpose(0, 1) for part in made.routed.branches[0].qkv(x)[0].chunk(3, -1))
    positive = (
        torch.relu if options.feature_map == "relu" else lambda value: torch.where(value > 0, value + 1, value.exp())
    )
    weights = positive(q) @ positive(k).transpose(1, 2)
    heads = (weights / weights.sum(-1, keepdim=True)) @ v
    torch.testing.assert_close(made(x)[0], made.out(heads.transpose(0, 1).reshape(24, 32)), atol=1e-4, rtol=1e-4)


def test_linear_attention_has_no_segments():
    with pytest.raises(NotReady, match=r"linear attention sums over all steps of a path.*got '3 segments'"):
        check_mixer_fits(ZigmaOptions(width=32, depth=2, patch=1, mixer=LINEAR[0]), grid=GRID, route=ROUTES["segments"])


@torch.no_grad()
def test_the_identity_lets_no_token_learn_of_another():
    block = ZigmaOptions(width=32, depth=2, patch=1)
    for route in ROUTES.values():
        mixer = IdentityMixer(IdentityOptions(), block=block, grid=GRID, route=route, backend="torch")
        initialise_network(mixer, 0)
        assert (depends(mixer) == np.eye(24, dtype=bool)).all()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("attention", "linear-attention", "identity") for name in BUILT_IN
     if (kind, name) != ("linear-attention", "zigzag-video")],
)  # fmt: skip
def test_costs_are_those_of_the_built_mixer_along_every_scan(kind, name):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    grid, route = grid_of(name), layers(name)[1]
    block, spec = ZigmaOptions(width=64, depth=2, patch=1), catalogue().get("mixer", kind)
    options = spec.make_options({} if kind == "identity" else {"heads": 2})
    spec.facts.check(options, block=block, grid=grid, route=route)
    cost = spec.facts.cost(options, block=block, grid=grid, route=route)
    mixer = spec.load()(options, block=block, grid=grid, route=route, backend="torch")
    initialise_network(mixer, 0)
    assert cost.parameters == sum(p.numel() for p in mixer.parameters())
    x = torch.randn(1, grid.tokens, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        mixer(x.detach())
    assert counter.get_total_flops() == cost.total_flops
    mixer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


def test_options_that_a_mixer_does_not_read_are_refused():
    block = ZigmaOptions(width=32, depth=2, patch=1, state=8)
    for check, options in (
        (check_attention, AttentionOptions()),
        (check_identity, IdentityOptions()),
    ):
        with pytest.raises(NotReady, match=r"doesn't use the backbone's option state; expected 16"):
            check(options, block=block, grid=GRID, route=Route(PLAIN))
    with pytest.raises(NotReady, match="5 heads do not divide"):
        attention(Route(PLAIN), AttentionOptions(heads=5))
