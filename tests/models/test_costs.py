"""Parameters by formula equal those of the built network and the published counts; FLOPs equal an independent count."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.grid import Grid
from zigma_bench.models import DIT_SIZES, ZIGMA_SIZES, costs
from zigma_bench.models.dit import Dit
from zigma_bench.models.options import DitOptions, VisionMambaOptions, ZigmaOptions
from zigma_bench.models.vision_mamba import VisionMamba
from zigma_bench.models.zigma import Zigma
from zigma_bench.registry import scan_spec
from zigma_bench.scans.layers import routes
from zigma_bench.scans.straight import bidirectional, raster


def orders(function, grid, depth):
    spec = scan_spec(function.__name__, function, owner="test")
    return routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve({}, where="test"))


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
    assert costs.zigma_cost(options, grid=grid, channels=4, routes=orders(scan, grid, 24)).parameters == parameters


def test_published_parameters_of_the_shipped_1024_config():
    options = ZigmaOptions(**ZIGMA_SIZES["B"], patch=2, positions="none")
    grid = Grid(64, 64)
    assert costs.zigma_cost(options, grid=grid, channels=4, routes=orders(raster, grid, 24)).parameters == 133_856_272


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_published_parameters_of_dit(size, millions):
    """The published counts hold 1,001 class embeddings and a learned sigma, which this network has not."""
    options = DitOptions(**DIT_SIZES[size], patch=2)
    here = costs.dit_cost(options, grid=Grid(16, 16), channels=4, routes=()).parameters
    published = here + 1001 * options.width + (options.width + 1) * 16
    assert round(published / 1e6) == pytest.approx(millions, abs=1)


@pytest.mark.parametrize("name", ["zigma", "vision-mamba", "dit"])
def test_formulas_equal_the_built_network(name):
    grid, channels = Grid(3, 5), 3
    if name == "dit":
        options, made = DitOptions(width=32, depth=2, patch=2, heads=2), ()
        network, formula = Dit(options, grid=grid, channels=channels, routes=made, backend="naive"), costs.dit_cost
    else:
        kind, scan = (ZigmaOptions, raster) if name == "zigma" else (VisionMambaOptions, bidirectional)
        options, made = kind(width=24, depth=3, patch=2, drop_path=0.0), orders(scan, grid, 3)
        network_class = Zigma if name == "zigma" else VisionMamba
        network = network_class(options, grid=grid, channels=channels, routes=made, backend="naive")
        formula = costs.zigma_cost
    cost = formula(options, grid=grid, channels=channels, routes=made)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    matrix_products = sdpa_kernel(SDPBackend.MATH)  # older counters don't know every fused attention of a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), matrix_products:
        network.eval()(torch.randn(1, channels, 6, 10), torch.rand(1))
    counted = {"conv", "scan"}  # a loop of products and sums, which torch's counter does not see
    assert counter.get_total_flops() == sum(v for k, v in cost.forward_flops.items() if k not in counted)
