"""Networks related to ZigMa, built from the shared parts: DiS, DiG and DiM, with what makes each different."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zigma_bench.backbones.zigma.facts import HybridOptions, ZigmaOptions
from zigma_bench.backbones.zigma.network import ZigmaBlock
from zigma_bench.errors import NotReady
from zigma_bench.layers.costs import grid_conv_cost, long_skip_cost
from zigma_bench.layers.embed import PatchEmbed, Positions, TimeEmbed, unpatchify
from zigma_bench.layers.grid_conv import GridConv
from zigma_bench.layers.init import initialise_network
from zigma_bench.layers.prefix import prefixed_grid, prefixed_route, with_prefix, without_prefix
from zigma_bench.layers.skips import LongSkip
from zigma_bench.mixers.lookup import make_mixer
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import PAD, Route

GRID = Grid(4, 6)
OPTIONS = ZigmaOptions(width=32, depth=5, patch=1, drop_path=0.0, residual="textbook")


def orders(name, depth=5, grid=GRID, **options):
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve(options, where="test"))


class Dis(nn.Module):
    """DiS: time as a token before the others, two directions per block, and long skips."""

    def __init__(self, made):
        super().__init__()
        D = OPTIONS.width
        grid = prefixed_grid(GRID, 1)
        self.patch_embed, self.positions = PatchEmbed(2, D, 1), Positions("learned", GRID, D)
        self.time_embed = TimeEmbed(D)
        mixers = [make_mixer(OPTIONS, grid=grid, route=prefixed_route(r, 1), backend="torch") for r in made]
        self.mixers, self.norms = nn.ModuleList(mixers), nn.ModuleList(nn.RMSNorm(D) for _ in made)
        self.skips = nn.ModuleList(LongSkip(D) for _ in range(len(made) // 2))
        self.head = nn.Linear(D, 2)

    def forward(self, x, t):
        x = with_prefix([self.time_embed(t)], self.positions(self.patch_embed(x)))
        early, half = [], len(self.mixers) // 2
        for number, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            if number > half:
                x = self.skips[number - half - 1](x, early.pop())
            x = x + mixer(norm(x))
            if number < half:
                early.append(x)
        return unpatchify(self.head(without_prefix(x, GRID)), GRID, 1)


class Dig(nn.Module):
    """ZigMa's block behind a depthwise convolution on the grid; four directions layer by layer (DiG)."""

    def __init__(self, made):
        super().__init__()
        D = OPTIONS.width
        self.patch_embed, self.time_embed = PatchEmbed(2, D, 1), TimeEmbed(D)
        self.convs = nn.ModuleList(GridConv(D, GRID) for _ in made)
        self.blocks = nn.ModuleList(
            ZigmaBlock(
                D,
                make_mixer(OPTIONS, grid=GRID, route=r, backend="torch"),
                drop_path=0.0,
                residual="textbook",
                backend="torch",
            )
            for r in made
        )
        self.head = nn.Linear(D, 2)

    def forward(self, x, t):
        x, r, c = self.patch_embed(x), None, self.time_embed(t)
        for conv, block in zip(self.convs, self.blocks, strict=True):
            x, r = block(conv(x), r, c)
        return unpatchify(self.head(r + x), GRID, 1)


def started(network):
    initialise_network(network, 0)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return network


@pytest.mark.parametrize(("kind", "scan", "other"), [(Dis, "bidirectional", "cross-scan"), (Dig, "mamba-nd", "zigzag")])
def test_a_relative_trains_every_parameter_and_reads_its_order(kind, scan, other):
    x, t = torch.randn(2, 2, 4, 6), torch.tensor([0.2, 0.8])
    network = started(kind(orders(scan)))
    network(x, t).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    changed = [replace(route, paths=np.roll(route.paths, 5, axis=1)) for route in orders(scan)]
    with torch.no_grad():
        assert not torch.allclose(started(kind(changed))(x, t), network(x, t), atol=1e-5)


def test_a_skip_joins_the_same_token_whatever_the_orders():
    """With another order in a layer between, the output of an early block for a token still reaches the same token."""
    skip = LongSkip(8)
    x, early = torch.randn(1, 24, 8), torch.randn(1, 24, 8)
    moved = early.clone()
    moved[:, 7] += 1
    changed = (skip(x, moved) - skip(x, early)).abs().amax((0, 2)) > 0
    assert changed.nonzero().tolist() == [[7]]
    assert sum(p.numel() for p in skip.parameters()) == long_skip_cost(8, 24)[0]


def test_prefix_tokens_come_first_in_every_path():
    route = orders("dim")[0]
    assert route.pad_count
    longer = prefixed_route(route, 2)
    assert longer.paths[:, :2].tolist() == [[0, 1]] * route.K
    assert ((longer.paths[:, 2:] == PAD) == (route.paths == PAD)).all()
    assert (longer.paths[:, 2:][route.paths != PAD] == route.paths[route.paths != PAD] + 2).all()
    longer.check(prefixed_grid(GRID, 2), "test")
    with pytest.raises(NotReady, match="prefix tokens need a scan"):
        prefixed_route(orders("atrous")[0], 1)


def test_a_prefix_is_taken_off_again():
    x, one, three = torch.randn(2, 24, 8), torch.randn(2, 8), torch.randn(2, 3, 8)
    stream = with_prefix([one, three], x)
    assert torch.equal(stream[:, 0], one) and torch.equal(stream[:, 1:4], three)
    assert torch.equal(without_prefix(stream, GRID), x)


def test_a_convolution_on_the_grid_starts_as_the_identity_and_sees_neighbours():
    grid = Grid(4, 6, 2)
    conv = GridConv(8, grid)
    initialise_network(conv, 0)
    x = torch.randn(1, 48, 8)
    torch.testing.assert_close(conv(x), x)
    nn.init.ones_(conv.weight)
    changed = x.clone()
    changed[:, 8] += 1  # frame 0, row 1, column 2
    seen = (conv(changed) - conv(x)).abs().amax((0, 2)) > 1e-4
    expected = [6 * r + c for r in (0, 1, 2) for c in (1, 2, 3)]
    assert seen.nonzero()[:, 0].tolist() == expected
    assert sum(p.numel() for p in conv.parameters()) == grid_conv_cost(8, grid)[0]


def test_the_hybrid_attends_in_every_kth_layer():
    """In these networks every token influences every token regardless of the order; in the others only later tokens."""
    options = HybridOptions(width=32, depth=6, patch=1, every=3, drop_path=0.0, heads=2, state=8)
    assert [options.attends(i) for i in range(6)] == [False, False, True, False, False, True]
    spec = catalogue().get("backbone", "hybrid")
    made = orders("raster", depth=6)
    spec.facts.check(options, grid=GRID, routes=made)
    network = spec.load()(options, grid=GRID, channels=2, routes=made, backend="torch")
    initialise_network(network, 0)
    x = torch.randn(1, 24, 32)
    changed = x.clone()
    changed[:, 11] += 1
    for number, block in enumerate(network.blocks):
        moved = (block.mixer(changed) - block.mixer(x)).abs().amax((0, 2)) > 1e-7
        assert moved.tolist() == ([True] * 24 if options.attends(number) else [i >= 11 for i in range(24)])
    with pytest.raises(NotReady, match="no layer has attention"):
        spec.facts.check(replace(options, every=7), grid=GRID, routes=made)


def test_a_route_with_a_prefix_is_that_of_a_longer_stream():
    """The prefix is read before all other tokens, so every token depends on it."""
    mixer = make_mixer(
        OPTIONS, grid=prefixed_grid(GRID, 1), route=prefixed_route(Route(np.arange(24)[::-1]), 1), backend="torch"
    )
    initialise_network(mixer, 0)
    x = torch.randn(1, 25, 32)
    changed = x.clone()
    changed[:, 0] += 1
    assert ((mixer(changed) - mixer(x)).abs().amax((0, 2)) > 0).all()
