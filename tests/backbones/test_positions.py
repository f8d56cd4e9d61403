"""Positions as an option of every backbone: none, sin-cos, learned."""

from __future__ import annotations

import pytest
import torch

from zigma_bench.errors import NotReady
from zigma_bench.layers.embed import patchify, sincos_2d, unpatchify
from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

GRID, CHANNELS, PATCH = Grid(4, 6), 3, 2
ATTENTION = {"name": "attention", "options": {"heads": 2}}
TOYS = {
    "zigma": {"width": 16, "depth": 1, "drop_path": 0.0, "mixer": ATTENTION},
    "dit": {"width": 16, "depth": 1, "heads": 2},
    "sit": {"width": 16, "depth": 1, "heads": 2},
    "u-vit": {"width": 16, "depth": 1, "heads": 2},
}
DEFAULTS = {"zigma": "learned", "dit": "sincos", "sit": "sincos", "u-vit": "learned"}
KINDS = ("none", "sincos", "learned")


def built(name, positions, **others):
    """The network with random weights, and its cost."""
    spec = catalogue().get("backbone", name)
    values = {**TOYS[name], "patch": PATCH, **({} if positions is None else {"positions": positions}), **others}
    options = spec.make_options(spec.resolve(values, where="test"))
    given = {"grid": GRID, "channels": CHANNELS, "routes": [Route(range(GRID.tokens))] * options.depth}
    spec.facts.check(options, grid=GRID, routes=given["routes"])
    network = spec.load()(options, **given, backend="torch")
    initialise_network(network, 0)
    return network.eval(), spec.facts.cost(options, **given)


def randomise(network):
    draw = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=draw)


@pytest.mark.parametrize("positions", KINDS)
@pytest.mark.parametrize("name", TOYS)
def test_the_parameters_are_those_of_the_formula(name, positions):
    network, cost = built(name, positions)
    assert sum(parameter.numel() for parameter in network.parameters()) == cost.parameters
    prefix = 1 if name == "u-vit" else 0
    learned = (GRID.tokens + prefix) * 16 if positions == "learned" else 0
    assert cost.parts.get("positions", 0) == learned


@pytest.mark.parametrize("name", TOYS)
def test_the_default_is_the_published_one(name):
    chosen, default = built(name, DEFAULTS[name])[0].state_dict(), built(name, None)[0].state_dict()
    assert list(chosen) == list(default)
    assert all(torch.equal(chosen[key], default[key]) for key in chosen)


@torch.no_grad()
@pytest.mark.parametrize("positions", KINDS)
@pytest.mark.parametrize("name", TOYS)
def test_only_positions_tell_patches_apart(name, positions):
    """Without positions, shuffled patches give the shuffled output of the same network with attention."""
    network, _ = built(name, positions)
    randomise(network)
    if name == "u-vit":  # its last convolution mixes neighbours
        torch.nn.init.dirac_(network.smooth.weight)
    x, t = torch.randn(2, CHANNELS, 8, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.7])
    order = torch.randperm(GRID.tokens, generator=torch.Generator().manual_seed(2))

    def shuffled(images):
        patches = patchify(images, PATCH)[:, order]  # values in the order (channel, row, column)
        values = patches.unflatten(-1, (CHANNELS, PATCH, PATCH)).permute(0, 1, 3, 4, 2).flatten(2)
        return unpatchify(values, GRID, PATCH)

    same = torch.allclose(network(shuffled(x), t), shuffled(network(x, t)), atol=1e-4)
    assert same == (positions == "none")


@torch.no_grad()
def test_sincos_positions_of_u_vit_leave_the_prefix_unchanged():
    positions = built("u-vit", "sincos")[0].positions
    added = positions(torch.zeros(1, GRID.tokens + 1, 16))[0]
    assert torch.equal(added[0], torch.zeros(16))
    assert torch.equal(added[1:], sincos_2d(GRID, 16))


@pytest.mark.parametrize("name", ["zigma", "dit", "u-vit"])
def test_sincos_positions_need_a_fitting_width(name):
    with pytest.raises(NotReady, match="sin-cos positions need a width divisible by 4, and 18 is not"):
        built(name, "sincos", width=18)
    built(name, "none", width=18)
