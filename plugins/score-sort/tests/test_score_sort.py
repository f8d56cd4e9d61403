"""The order starts as the raster and follows the score, and the score gets a gradient."""

from __future__ import annotations

import pytest
import torch
from zigma_bench_score_sort import ScoreSortOptions, cost
from zigma_bench_score_sort.sort import ScoreSort

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.errors import CellFailed
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.mamba.facts import MambaOptions
from zigma_bench.mixers.mamba.mixer import MambaMixer
from zigma_bench.plugins.registry import LearnedScan, target_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes

GRID = Grid(3, 4)
BLOCK = ZigmaOptions(width=8, depth=2, patch=1, state=4)
TARGET = "zigma_bench_score_sort.sort:ScoreSort"


def mixer(backend: str = "naive") -> MambaMixer:
    spec = target_spec(
        "scan", "score-sort", TARGET, options=ScoreSortOptions, facts=LearnedScan(cost=cost), owner="test"
    )
    route = layer_routes(spec, grid=GRID, depth=2, options=spec.resolve({}, where="test"))[0]
    made = MambaMixer(MambaOptions(), block=BLOCK, grid=GRID, route=route, backend=backend)
    initialise_network(made, 0)
    return made


def tokens() -> torch.Tensor:
    return torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0))


def test_it_starts_as_the_raster_and_then_follows_the_score():
    order = ScoreSort(ScoreSortOptions(), width=8, grid=GRID, layer=0, depth=2)
    initialise_network(order, 0)
    paths, weight = order(tokens())
    assert torch.equal(paths, torch.arange(12).expand(3, 1, 12))
    assert torch.equal(weight, torch.ones(3, 12))
    with torch.no_grad():
        order.weight[2] = 100.0
    paths, _ = order(tokens())
    along = tokens()[..., 2].gather(1, paths[:, 0])
    assert (along.diff(dim=1) >= -0.01).all()
    assert not torch.equal(paths[0], paths[1]), "every image has its own order"


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_a_mixer_along_it_is_a_raster_mixer_on_sorted_tokens(backend):
    made = mixer(backend)
    with torch.no_grad():
        made.order.module.weight.normal_(generator=torch.Generator().manual_seed(1))
        paths, _ = made.order(tokens())
        found = made(tokens())
        made.order.module.weight.zero_()  # the raster
        index = paths[:, 0, :, None].expand(-1, -1, 8)
        expected = torch.zeros_like(found).scatter(1, index, made(tokens().gather(1, index)))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_score_learns():
    made = mixer()
    made(tokens()).square().sum().backward()
    assert made.order.module.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_the_cost_is_the_built_modules():
    order = ScoreSort(ScoreSortOptions(), width=8, grid=GRID, layer=0, depth=2)
    assert cost(ScoreSortOptions(), width=8, grid=GRID).parameters == sum(p.numel() for p in order.parameters())


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (torch.zeros(3, 1, 12, dtype=torch.int64), "a path is wrong; expected each of the 12 tokens once"),
        (torch.arange(12).expand(3, 2, 12), r"its paths is wrong; expected torch.int64 \(3, 1, 12\)"),
        (torch.arange(12, dtype=torch.int32).expand(3, 1, 12), "got 'torch.int32"),
        ("raster", "got 'str'"),
    ],
)
def test_a_wrong_order_is_named(paths, words):
    made = mixer()
    made.order.module.forward = lambda x: (paths, None)
    with pytest.raises(CellFailed, match=words) as caught:
        made(tokens())
    assert TARGET in str(caught.value)
