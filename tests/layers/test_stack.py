"""A stack of blocks: plain, compiled in spans, and with checkpointing (recomputation); whole networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.layers.init import initialise_network
from zigma_bench.layers.stack import SPAN, BlockStack
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes

GRID_CONV = {"name": "mamba", "options": {"convolution": "grid"}}


class Two(nn.Module):
    """(x, r), c -> (x, r); the first block has no r."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 1.0 + number))

    def forward(self, x: Tensor, r: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
        r = x if r is None else r + x
        return torch.tanh(self.weight * r + c), r


def stack(depth: int) -> BlockStack:
    return BlockStack(Two(number) for number in range(depth))


def found(blocks: BlockStack, *, checkpointing: bool = False) -> list[Tensor]:
    """The state after the blocks, and the gradients of the weights."""
    x, c = torch.linspace(-1, 1, 4, requires_grad=True), torch.linspace(0, 1, 4)
    state = blocks.through((x, None), (c,), checkpointing=checkpointing)
    assert len(state) == 2
    return [*state, *torch.autograd.grad(state[0].sum() + state[1].sum(), list(blocks.parameters()))]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 24])
def test_spans_contain_every_block_once_in_order(depth: int) -> None:
    blocks = stack(depth)
    spans = blocks.spans()
    assert [block for span in spans for block in span] == list(blocks)
    lengths = [len(span) for span in spans]
    assert max(lengths) <= SPAN and max(lengths) - min(lengths) <= 1 and len(spans) == -(-depth // SPAN)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's compiler looks at it
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_or_not_the_blocks_give_the_same(checkpointing: bool) -> None:
    plain = stack(7)
    compiled, programs = copy.deepcopy(plain), []

    def count(graph, example):
        programs.append(graph)
        return graph

    compiled.compile(fullgraph=True, backend=count)
    expected = found(plain)
    for one, other in zip(found(plain, checkpointing=checkpointing), expected, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found(compiled, checkpointing=checkpointing), expected, strict=True):
        torch.testing.assert_close(one, other)
    # 7 blocks in spans of 2, 2 and 3; the first of the network has no r. With checkpointing, one by one.
    assert len(programs) == (2 if checkpointing else 3)


def test_a_copy_is_not_compiled_and_names_stay() -> None:
    blocks = stack(4)
    names = list(blocks.state_dict())
    blocks.compile(backend="eager")
    assert blocks._compiled_call_impl is not None and copy.deepcopy(blocks)._compiled_call_impl is None
    assert list(blocks.state_dict()) == names == [f"{number}.weight" for number in range(4)]


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler about itself
@pytest.mark.parametrize(("mixer", "height"), [("mamba", 2), (GRID_CONV, 2), ("mamba-2", 8), ("attention", 2)])
def test_a_network_is_traced_whole(mixer: str | dict[str, Any], height: int) -> None:
    """No operator breaks the graph by reading values, as it can for a path on a CPU."""
    grid, spec = Grid(height, 9), catalogue().get("scan", "zigzag")  # of mamba-2 two chunks
    orders = layer_routes(spec, grid=grid, depth=1, seed=0, options=spec.resolve({}, where="test"))
    options = ZigmaOptions(width=32, depth=1, patch=1, mixer=mixer, drop_path=0)
    network = Zigma(options, grid=grid, channels=1, routes=orders, backend="torch")
    initialise_network(network, 0)
    torch._dynamo.reset()
    x, t = torch.linspace(-1, 1, grid.tokens).reshape(1, 1, height, 9), torch.tensor([0.3])
    results = []
    for run in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        y = run(x, t)
        results.append([y.detach(), *torch.autograd.grad(y.square().mean(), list(network.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
