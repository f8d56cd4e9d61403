"""ZigMa with text conditions, with and without a mask, and ZigMa on clips: which tokens influence which."""

from __future__ import annotations

import pytest
import torch

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.layers.attention import CrossAttention
from zigma_bench.layers.embed import patchify, unpatchify
from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes

PICTURE, CLIP = Grid(4, 6), Grid(3, 4, 2)


def network(grid=PICTURE, scan="zigzag", residual="official", **options):
    spec = catalogue().get("scan", scan)
    chosen = ZigmaOptions(width=16, depth=3, patch=2, drop_path=0.0, residual=residual, text_width=5, **options)
    made = layer_routes(spec, grid=grid, depth=3, options=spec.resolve({}, where="test"))
    found = Zigma(chosen, grid=grid, channels=3, routes=made, backend="torch")
    initialise_network(found, 0)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        for parameter in found.parameters():  # gates that start at zero are opened
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return found.eval()


def pictures(batch=2):
    return torch.randn(batch, 3, 8, 12, generator=torch.Generator().manual_seed(1)), torch.linspace(0.2, 0.8, batch)


def texts(batch=2, tokens=7):
    return torch.randn(batch, tokens, 5, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("residual", ["official", "textbook"])
def test_a_masked_token_is_as_one_that_is_not_there(residual):
    made = network(condition="text", residual=residual)
    x, t = pictures()
    y = texts()
    mask = torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(made(x, t, y, mask), made(x, t, y), atol=1e-5, rtol=1e-5)
    mask[:, 4:] = False
    torch.testing.assert_close(made(x, t, y, mask), made(x, t, y[:, :4]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made(x, t, y, mask), made(x, t, y), atol=1e-3)


@torch.no_grad()
def test_the_order_of_text_tokens_does_not_matter_and_both_ways_of_reading_them_do():
    made = network(condition="text")
    x, t = pictures()
    y = texts()
    torch.testing.assert_close(made(x, t, y.flip(1)), made(x, t, y), atol=1e-5, rtol=1e-5)
    same_mean = y.clone()
    same_mean[:, 0] += 1
    same_mean[:, 1] -= 1
    assert not torch.allclose(made(x, t, same_mean), made(x, t, y), atol=1e-4), "cross-attention reads the tokens"
    for block in made.blocks:
        block.text_modulation.weight.zero_()
        block.text_modulation.bias.zero_()
    torch.testing.assert_close(made(x, t, same_mean), made(x, t, y), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made(x, t, 2 * y), made(x, t, y), atol=1e-4), "their mean modulates"


def test_cross_attention_equals_its_definition():
    made = CrossAttention(16)
    x, text = torch.randn(1, 5, 16), torch.randn(1, 3, 16)
    heads = []
    for h in range(8):
        q, k, v = (
            layer(rows)[0, :, 64 * h : 64 * h + 64] for layer, rows in ((made.q, x), (made.k, text), (made.v, text))
        )
        heads.append(torch.softmax(q @ k.T / 8, dim=-1) @ v)
    torch.testing.assert_close(made(x, text)[0], made.out(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


def test_a_mask_belongs_to_a_text():
    made = network(condition="text")
    x, t = pictures()
    y, mask = texts(), torch.ones(2, 7, dtype=torch.bool)
    for wrong in (mask[:, :3], mask.float()):
        with pytest.raises(UsageError, match=r"not a mask of text tokens; expected bool \[2, 7\]"):
            made(x, t, y, wrong)
    mask[1] = False
    with pytest.raises(UsageError, match="hides every token of a text"):
        made(x, t, y, mask)
    with pytest.raises(UsageError, match="there is no text"):
        network()(x, t, None, torch.ones(2, 7, dtype=torch.bool))


def test_a_text_block_starts_as_the_plain_block():
    """The gates are zero at initialisation, so the text only acts through the time embedding, which the gates block
    too."""
    spec = catalogue().get("scan", "raster")
    made = layer_routes(spec, grid=PICTURE, depth=2, options={})
    x, t = pictures()
    found = []
    for condition in ("none", "text"):
        options = ZigmaOptions(width=16, depth=2, patch=2, condition=condition, text_width=5)
        one = Zigma(options, grid=PICTURE, channels=3, routes=made, backend="torch").eval()
        initialise_network(one, 0)
        found.append(one(x, t, *([texts()] if condition == "text" else [])))
    assert torch.equal(*found)


def test_frames_are_cut_and_put_back_where_they_were():
    clip = torch.arange(2 * 2 * 3 * 6 * 8.0).reshape(2, 2, 3, 6, 8)
    tokens = patchify(clip, 2)
    assert tokens.shape == (2, 24, 12)
    assert torch.equal(tokens[:, 12:], patchify(clip[:, 1], 2)), "tokens lie frame after frame"
    as_rows = tokens.reshape(2, 24, 3, 2, 2).permute(0, 1, 3, 4, 2).reshape(2, 24, 12)
    assert torch.equal(unpatchify(as_rows, CLIP, 2), clip)


@torch.no_grad()
@pytest.mark.parametrize("condition", ["none", "class"])
@pytest.mark.parametrize(("scan", "mixer"), [("zigzag-video", "mamba"), ("raster", "mamba-2")])
def test_a_clip_of_any_size_and_condition(scan, mixer, condition):
    options = {"mixer": {"name": "mamba-2", "options": {"head_dim": 16, "state": 8}}} if mixer == "mamba-2" else {}
    made = network(CLIP, scan, condition=condition, classes=4, **options)
    x = torch.randn(2, 2, 3, 6, 8)
    y = [torch.tensor([0, 3])] if condition == "class" else []
    assert made(x, torch.rand(2), *y).shape == x.shape
    assert made.positions.table.shape == (1, 24, 16)
    with pytest.raises(UsageError, match=r"\[B, 2, 3, 6, 8\]"):
        made(x[:, :1], torch.rand(2), *y)


@torch.no_grad()
def test_a_spatial_layer_of_a_clip_keeps_frames_apart_and_a_temporal_one_places():
    made = network(CLIP, "zigzag-video")  # sst
    x = torch.randn(1, 24, 16)
    for number, apart in ((0, "frames"), (1, "frames"), (2, "places")):
        changed = x.clone()
        changed[:, 3] += 1  # frame 0, place 3
        moved = (made.blocks[number].mixer(changed) - made.blocks[number].mixer(x)).abs().amax((0, 2)) > 0
        allowed = torch.arange(24) < 12 if apart == "frames" else torch.arange(24) % 12 == 3
        assert not moved[~allowed].any()
        assert moved[allowed].any()


def test_sincos_positions_are_those_of_a_picture():
    spec = catalogue().get("backbone", "zigma")
    options = ZigmaOptions(width=16, depth=1, patch=1, positions="sincos")
    with pytest.raises(NotReady, match="are defined for single images"):
        spec.facts.check(options, grid=CLIP, routes=())
