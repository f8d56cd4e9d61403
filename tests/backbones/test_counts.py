"""FLOPs by formula equal an independent count of the plain code, operator by operator; the operations without a formula
are few."""

from __future__ import annotations

import pytest
import torch
from operations import operations

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.errors import UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Cost, add_costs
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes

CHANNELS, SIDES = 3, (6, 10)  # pixels, cut into patches of 2: 15 tokens
TOY = {"width": 16, "depth": 2, "patch": 2}
SMALL = {"head_dim": 2, "state": 6, "groups": 2}
MAMBA2 = {"name": "mamba-2", "options": SMALL}
GRID_CONV = {"name": "mamba", "options": {"convolution": "grid", "kernel": 5}}
NO_CONV = {"name": "mamba", "options": {"convolution": "none"}}
LINEAR = {"name": "linear-attention", "options": {"heads": 2}}
BUILT_IN = sorted(spec.name for spec in catalogue().scans if spec.owner == "zigma-bench" and spec.facts is None)
NETWORKS = [
    ("zigma", {}, "raster", {}),
    ("zigma", {"state": 5, "conv": 3, "expand": 3}, "zigzag", {"paths": 8}),
    ("zigma", {"positions": "sincos"}, "zigzag", {"paths": 4, "mode": "parallel"}),
    ("zigma", {}, "continuous", {}),
    ("zigma", {}, "local-mamba", {}),
    ("zigma", {"mixer": GRID_CONV}, "zigzag", {}),
    ("zigma", {"mixer": NO_CONV}, "zigzag", {"paths": 2, "mode": "parallel"}),
    ("zigma", {"mixer": MAMBA2}, "raster", {}),
    ("zigma", {"mixer": MAMBA2}, "zigzag", {"paths": 2, "mode": "parallel"}),
    ("vision-mamba", {}, "bidirectional", {}),
    ("vision-mamba", {"mixer": MAMBA2}, "bidirectional", {}),
    ("dit", {"heads": 4}, None, {}),
    ("dit", {"heads": 2, "mlp_ratio": 3}, None, {}),
    ("dit", {"heads": 4, "condition": "class", "classes": 5, "learn_sigma": True}, None, {}),
    ("sit", {"heads": 4, "positions": "learned"}, None, {}),
    ("u-vit", {"heads": 4, "depth": 5}, None, {}),
    ("u-vit", {"heads": 4, "depth": 3, "positions": "sincos"}, None, {}),
    ("u-vit", {"heads": 4, "depth": 3, "condition": "text", "text_width": 12, "text_tokens": 7}, None, {}),
    ("hybrid", {"every": 2, "heads": 2}, "zigzag", {}),
    ("zigma", {"mixer": {"name": "attention", "options": {"heads": 2}}}, "zigzag", {"paths": 2, "mode": "parallel"}),
    ("zigma", {"mixer": LINEAR}, "zigzag", {"paths": 2, "mode": "parallel"}),
    ("zigma", {"mixer": {"name": "linear-attention", "options": {"heads": 4, "feature_map": "relu"}}}, "raster", {}),
    ("zigma", {"mixer": {"name": "identity", "options": {}}}, "zigzag", {}),
    ("zigma", {"condition": "text", "text_width": 12, "text_tokens": 7}, "zigzag", {}),
]


class Built:
    """A network, its cost by formula, and its routes."""

    def __init__(self, name, options, scan, scan_options, **more):
        spec = catalogue().get("backbone", name)
        self.options = spec.make_options(spec.resolve({**TOY, **options, **more}, where="test"))
        self.grid = Grid.of_image(*SIDES, self.options.patch)
        self.routes = ()
        if scan is not None:
            found = catalogue().get("scan", scan)
            resolved = found.resolve(scan_options, where="test")
            self.routes = layer_routes(found, grid=self.grid, depth=self.options.depth, options=resolved)
        self.cost = spec.facts.cost(self.options, grid=self.grid, channels=CHANNELS, routes=self.routes)
        given = {"grid": self.grid, "channels": CHANNELS, "routes": self.routes, "backend": "naive"}
        self.network = spec.load()(self.options, **given)
        initialise_network(self.network, 0)

    def count(self):
        given = {
            "none": [],
            "class": [torch.zeros(1, dtype=torch.long)],
            "text": [torch.randn(1, getattr(self.options, "text_tokens", 0), getattr(self.options, "text_width", 0))],
        }
        return operations(self.network, torch.randn(1, CHANNELS, *SIDES), torch.rand(1), *given[self.options.condition])


def taps_before_the_start(route, width):
    """Taps that the plain convolution skips: of step i of a segment, those that look back more than i steps."""
    missing = 0
    for number in range(route.K):
        began = [0] * route.steps if route.segment_starts is None else route.segment_starts[number].tolist()
        missing += sum(max(0, width - 1 - (step - began[step])) for step in range(route.steps))
    return missing


@pytest.mark.parametrize(("name", "options", "scan", "scan_options"), NETWORKS)
def test_formulas_equal_the_count_operator_by_operator(name, options, scan, scan_options):
    built = Built(name, options, scan, scan_options)
    counted = dict(built.count().counted)
    if "conv" in counted and options.get("mixer") != GRID_CONV:
        convolving = [
            i for i in range(built.options.depth) if name_of(built.options.layer(i).mixer).startswith("mamba")
        ]
        skipped = sum(taps_before_the_start(built.routes[i], built.options.conv) for i in convolving)
        counted["conv"] += 2 * skipped * convolved(built.options)
    assert counted == {operator: flops for operator, flops in built.cost.forward_flops.items() if flops}


def name_of(mixer):
    return mixer if isinstance(mixer, str) else mixer["name"]


def convolved(options):
    """Channels that a path's convolution works on: x alone, or x, B and C."""
    if options.mixer == "mamba":
        return options.inner
    return options.inner + 2 * SMALL["groups"] * SMALL["state"]


@pytest.mark.parametrize("scan", BUILT_IN)
@pytest.mark.parametrize("mixer", ["mamba", "mamba-2"])
def test_every_route_costs_what_is_counted(scan, mixer):
    """All merges, segments, pads and shared parameters of the built-in scans."""
    grid = Grid(3, 4, 2) if "video" in scan else Grid(4, 6)
    found, spec = catalogue().get("scan", scan), catalogue().get("mixer", mixer)
    route = layer_routes(found, grid=grid, depth=4, options=found.resolve({}, where="test"))[1]
    block = ZigmaOptions(width=16, depth=4, patch=1, state=4 if mixer == "mamba" else 16)
    options = spec.make_options(spec.resolve(SMALL if mixer == "mamba-2" else {}, where="test"))
    made = spec.load()(options, block=block, grid=grid, route=route, backend="naive")
    initialise_network(made, 0)
    counted = dict(operations(made, torch.randn(1, grid.tokens, 16)).counted)
    channels = block.inner // (route.K if route.merge == "concat" else 1)
    channels += 2 * options.groups * options.state if mixer == "mamba-2" else 0
    counted["conv"] += 2 * taps_before_the_start(route, block.conv) * channels
    formula = spec.facts.cost(options, block=block, grid=grid, route=route).forward_flops
    assert counted == {operator: flops for operator, flops in formula.items() if flops}


@pytest.mark.parametrize(("name", "options", "scan"), [("zigma", {}, "raster"), ("dit", {"heads": 4}, None)])
def test_what_is_left_out_grows_with_the_values_alone(name, options, scan):
    """With twice the width, the number of values doubles. So no matrix product is among the operations without a
    formula."""
    one, two = (sum(Built(name, options, scan, {}, width=width).count().left_out.values()) for width in (16, 32))
    assert one < two <= 2 * one


LEFT_OUT = {  # as in zigma_bench/mixers/costs.py; "between": norms, shifts, scales, gates, residuals, positions
    "between": "add mul silu mean pow rsqrt native_layer_norm _fused_rms_norm cos div exp sin addcmul",
    "in_proj": "mul silu",
    "text_embed": "bias", "cross_attention": "bias mul _softmax _safe_softmax", "skip": "bias",
    "patch_embed": "bias", "adaln": "bias", "final": "bias", "attention_proj": "bias", "mlp": "bias gelu",
    "time_embed": "bias cos div exp mul silu sin", "conv": "silu",
    "attention": "mul _softmax _safe_softmax add div elu relu sum",
    "dt_proj": "neg exp add", "scan": "add mul exp silu softplus", "merge": "add mul div mean sigmoid _softmax",
}  # fmt: skip


@pytest.mark.parametrize(("name", "options", "scan", "scan_options"), NETWORKS)
def test_what_is_left_out_is_what_the_formulas_say(name, options, scan, scan_options):
    found = Built(name, options, scan, scan_options).count().left_out
    assert {f"{operator} {call}" for operator, call in found} <= {
        f"{operator} {call}" for operator, calls in LEFT_OUT.items() for call in calls.split()
    }


def test_parts_add_up_to_the_parameters():
    with pytest.raises(UsageError, match="don't add up"):
        Cost(5, {}, {"a": 2, "b": 2})
    one, two = Cost.of({"a": 2}, {"a": 4}), Cost(3, {"a": 1, "b": 1})
    assert add_costs([one, two]) == Cost(5, {"a": 5, "b": 1}, None)
    assert add_costs([one, two.within("rest")]).parts == {"a": 2, "rest": 3}
