"""DiT: its output, and its blocks don't depend on the order of tokens."""

from __future__ import annotations

import torch

from zigma_bench.backbones.dit.facts import DitOptions
from zigma_bench.backbones.dit.network import Dit
from zigma_bench.layers.embed import patchify, sincos_2d, unpatchify
from zigma_bench.layers.init import initialise_network
from zigma_bench.scans.grid import Grid

OPTIONS = DitOptions(width=32, depth=2, patch=2, heads=2)


def network():
    made = Dit(OPTIONS, grid=Grid(4, 6), channels=3, routes=(), backend="torch")
    initialise_network(made, 0)
    return made


def test_starts_at_zero_velocity():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(network()(x, torch.rand(2)), torch.zeros_like(x))


def test_a_block_commutes_with_any_permutation():
    block = network().blocks[0]
    with torch.no_grad():
        block.modulation.bias.normal_()
    x, c, order = torch.randn(2, 24, 32), torch.randn(2, 32), torch.randperm(24)
    torch.testing.assert_close(block(x[:, order], c), block(x, c)[:, order], atol=1e-5, rtol=1e-5)


def test_attention_equals_its_definition():
    attention = network().blocks[0].attention
    x = torch.randn(1, 5, 32)
    q, k, v = (part.reshape(5, 2, 16).transpose(0, 1) for part in attention.qkv(x)[0].chunk(3, dim=-1))
    heads = torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v
    expected = attention.out(heads.transpose(0, 1).reshape(5, 32))
    torch.testing.assert_close(attention(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_patches_come_back_where_they_were():
    x = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    tokens = patchify(x, 2)
    assert torch.equal(tokens[0, 7], x[0, :, 2:4, 2:4].reshape(-1))  # token 7 is row 1, column 1 of 4 x 6
    as_rows = tokens.reshape(2, 24, 3, 2, 2).permute(0, 1, 3, 4, 2).reshape(2, 24, 12)
    assert torch.equal(unpatchify(as_rows, Grid(4, 6), 2), x)


def test_positions_tell_rows_from_columns():
    table = sincos_2d(Grid(3, 4), 16)
    assert torch.equal(table[1, 8:], table[2, 8:])  # same row: the second half agrees
    assert torch.equal(table[1, :8], table[5, :8])  # same column: the first half agrees
    assert len({tuple(row.tolist()) for row in table}) == 12
