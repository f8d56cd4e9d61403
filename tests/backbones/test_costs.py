"""Parameters by formula equal those of the built network and the published counts; FLOPs equal an independent count."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.backbones.dit.facts import DIT_SIZES, DitOptions, dit_cost
from zigma_bench.backbones.dit.network import Dit
from zigma_bench.backbones.u_vit.facts import UVIT_SIZES, UvitOptions, uvit_cost
from zigma_bench.backbones.zigma.facts import ZIGMA_SIZES, VisionMambaOptions, ZigmaOptions, zigma_cost
from zigma_bench.backbones.zigma.network import VisionMamba, Zigma
from zigma_bench.plugins.registry import scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.straight import bidirectional, raster


def orders(function, grid, depth):
    spec = scan_spec(function.__name__, function, owner="test")
    return layer_routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve({}, where="test"))


@pytest.mark.parametrize(
    ("positions", "scan", "options_class", "parameters"),
    [
        ("learned", raster, ZigmaOptions, 134_624_260),
        ("none", raster, ZigmaOptions, 133_837_828),
        ("learned", bidirectional, VisionMambaOptions, 140_190_724),
    ],
)
def test_published_parameters_of_zigma_b1(positions, scan, options_class, parameters):
    options = options_class(**ZIGMA_SIZES["B"], patch=1, positions=positions)
    grid = Grid(32, 32)
    assert zigma_cost(options, grid=grid, channels=4, routes=orders(scan, grid, 24)).parameters == parameters


def test_published_parameters_of_the_shipped_1024_config():
    options = ZigmaOptions(**ZIGMA_SIZES["B"], patch=2, positions="none")
    grid = Grid(64, 64)
    assert zigma_cost(options, grid=grid, channels=4, routes=orders(raster, grid, 24)).parameters == 133_856_272


def test_published_parameters_with_text():
    grid, made = Grid(32, 32), orders(raster, Grid(32, 32), 24)
    plain = ZigmaOptions(**ZIGMA_SIZES["B"], patch=1, condition="text", text_width=768)
    assert zigma_cost(plain, grid=grid, channels=4, routes=made).parameters == 215_504_644
    assert zigma_cost(plain, grid=grid, channels=3, routes=made).parameters == 215_503_107  # the official demo
    both = VisionMambaOptions(**ZIGMA_SIZES["B"], patch=1, condition="text", text_width=768)
    two = orders(bidirectional, grid, 24)
    assert zigma_cost(both, grid=grid, channels=4, routes=two).parameters == 221_071_108


def test_published_parameters_of_the_shipped_config_of_clips():
    """3d_sweep2_b2: 16 frames of 32 x 32 latents in patches of 2, 101 classes."""
    options = VisionMambaOptions(**ZIGMA_SIZES["B"], patch=2, condition="class", classes=101)
    grid = Grid(16, 16, 16)
    made = orders(bidirectional, grid, 24)
    assert zigma_cost(options, grid=grid, channels=4, routes=made).parameters == 142_646_032


@pytest.mark.parametrize(("size", "millions"), [("S", 31.4), ("B", 134.1), ("M", 267.1), ("L", 472.8), ("H", 1059.1)])
def test_published_parameters_of_the_named_sizes(size, millions):
    options, grid = ZigmaOptions(**ZIGMA_SIZES[size], patch=2), Grid(16, 16)
    made = orders(raster, grid, options.depth)
    assert round(zigma_cost(options, grid=grid, channels=4, routes=made).parameters / 1e6, 1) == millions


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_published_parameters_of_dit(size, millions):
    """With 1,000 classes, the dropped class and a learned sigma. SiT has the same numbers."""
    options = DitOptions(**DIT_SIZES[size], patch=2, condition="class", learn_sigma=True)
    counted = dit_cost(options, grid=Grid(16, 16), channels=4, routes=()).parameters
    assert counted / 1e6 == pytest.approx(millions, abs=0.6)


@pytest.mark.parametrize(("size", "millions"), [("S", 44), ("M", 131), ("L", 287), ("H", 501)])
def test_published_parameters_of_u_vit(size, millions):
    options = UvitOptions(**UVIT_SIZES[size], patch=2, condition="none" if size == "S" else "class")
    side, channels = (16, 3) if size == "S" else (16, 4)  # CIFAR-10, and latents of ImageNet at 256
    counted = uvit_cost(options, grid=Grid(side, side), channels=channels, routes=()).parameters
    assert counted / 1e6 == pytest.approx(millions, abs=0.6)


@pytest.mark.parametrize("name", ["zigma", "vision-mamba", "dit"])
def test_formulas_equal_the_built_network(name):
    grid, channels = Grid(3, 5), 3
    if name == "dit":
        options, made = DitOptions(width=32, depth=2, patch=2, heads=2), ()
        network, formula = Dit(options, grid=grid, channels=channels, routes=made, backend="naive"), dit_cost
    else:
        kind, scan = (ZigmaOptions, raster) if name == "zigma" else (VisionMambaOptions, bidirectional)
        options, made = kind(width=24, depth=3, patch=2, drop_path=0.0), orders(scan, grid, 3)
        network_class = Zigma if name == "zigma" else VisionMamba
        network = network_class(options, grid=grid, channels=channels, routes=made, backend="naive")
        formula = zigma_cost
    cost = formula(options, grid=grid, channels=channels, routes=made)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    matrix_products = sdpa_kernel(SDPBackend.MATH)  # older counters don't know every fused attention of a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), matrix_products:
        network.eval()(torch.randn(1, channels, 6, 10), torch.rand(1))
    counted = {"conv", "scan"}  # a loop of products and sums, which torch's counter does not see
    assert counter.get_total_flops() == sum(v for k, v in cost.forward_flops.items() if k not in counted)
