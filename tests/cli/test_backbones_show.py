"""`backbones show NAME/SIZE`: the printed values match the built network and its routes, and bad input is one error."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from typer.testing import CliRunner

from zigma_bench.backbones.dit.facts import DitOptions, dit_cost
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import BackboneFacts, Cost, target_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.course import course

TOY = "zigma:width=32,depth=3,patch=2"


@pytest.fixture
def call():
    """The standard output of a command that must end with `code`, or its error."""

    def run(*words, code=0):
        from zigma_bench.cli.app import app

        done = CliRunner().invoke(app, ["backbones", "show", *words])
        if code:
            assert getattr(done.exception, "exit_code", None) == code, done.exception
            return str(done.exception)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    return run


def test_a_named_network_on_a_grid(call):
    out = call("zigma/B/2", "--grid", "32x48", "--scan", "zigzag", "--set", "paths=2")
    assert "3 x 32 x 48 values in 16x24 = 384 tokens" in out
    assert "width 768" in out and "depth 24" in out
    assert "scan zigzag assignment=cyclic compatibility=none mode=layerwise paths=2" in out
    assert "layers 16 to 23:  1  2  1  2  1  2  1  2" in out
    for operator in ("in_proj", "dt_proj", "conv", "scan", "adaln", "all"):
        assert f"│ {operator} " in out
    assert "estimate" in out


def test_json_is_one_document_with_everything(call):
    found = json.loads(call(TOY, "--grid", "8x12", "--channels", "1", "--scan", "zigzag:paths=2", "--json"))
    spec = catalogue().get("scan", "zigzag")
    options = spec.resolve({"paths": 2}, where="test")
    expected = layer_routes(spec, grid=Grid(4, 6), depth=3, options=options)
    assert found["tokens"] == 24
    assert [layer["digest"] for layer in found["schedule"]] == [route.digest for route in expected]
    assert [layer["paths"][0]["first"][:4] for layer in found["schedule"]] == [
        [0, 1, 2, 3],
        [0, 6, 12, 18],
        [0, 1, 2, 3],
    ]
    assert [layer["paths"][0]["along"] for layer in found["schedule"]] == ["rows", "columns", "rows"]
    for column in ("parameters", "forward_flops"):
        assert found[column]["total"] == sum(found[column]["by_operator"].values())
    assert found["forward_flops"]["scan"] == found["forward_flops"]["by_operator"]["scan"]
    kept = found["activation_bytes"]
    assert kept["backend"] == "fused"
    assert sum(kept["bf16"].values()) < sum(kept["fp32"].values())


def test_parts_are_those_of_the_built_network(call):
    """The parameters of each part, found by the names in the network."""
    found = json.loads(call(TOY, "--grid", "8x8", "--channels", "1", "--scan", "zigzag", "--json"))
    spec = catalogue().get("backbone", "zigma")
    options, grid, scan = (
        spec.make_options({"width": 32, "depth": 3, "patch": 2}),
        Grid(4, 4),
        catalogue().get("scan", "zigzag"),
    )
    made = layer_routes(scan, grid=grid, depth=3, options=scan.resolve({}, where="test"))
    network = spec.load()(options, grid=grid, channels=1, routes=made, backend="naive")
    ends = {
        "in_proj.weight": "in_proj", "out_proj.weight": "out_proj", "x_proj.weight": "x_proj", "dt_weight": "dt_proj",
        "dt_bias": "dt_proj", "conv_weight": "conv", "conv_bias": "conv", "A_log": "scan", ".D": "scan",
        "modulation.weight": "adaln", "modulation.bias": "adaln", ".norm.weight": "norm",
    }  # fmt: skip
    starts = {
        "patch_embed": "patch_embed",
        "positions": "positions",
        "time_embed": "time_embed",
        "head": "final",
        "final_norm": "final",
    }
    counted = {}
    for name, parameter in network.named_parameters():
        part = next((p for end, p in ends.items() if name.endswith(end)), None) or starts[name.split(".")[0]]
        counted[part] = counted.get(part, 0) + parameter.numel()
    assert counted == {part: count for part, count in found["parameters"]["by_operator"].items() if count}


def test_its_own_scan_and_none(call):
    own = json.loads(call("vision-mamba/S/2", "--json"))
    assert own["scan"]["name"] == "bidirectional"
    assert [path["begins"] for path in own["schedule"][0]["paths"]] == ["top left", "bottom right"]
    free = call("dit/S/2")
    assert "its layers have no scan paths" in free
    assert json.loads(call("dit/S/2", "--json"))["schedule"] == []


def test_a_network_of_clips(call):
    """The layers of a factorised scan alternate between paths within frames and through time, over the tokens of all
    frames."""
    words = ("zigma:width=32,depth=3,patch=2", "--grid", "4x8x12", "--scan", "zigzag-video", "--set", "order=sst")
    out = call(*words)
    assert "3 x 8 x 12 values in each of 4 frames, 4x4x6 = 96 tokens" in out
    found = json.loads(call(*words, "--json"))
    assert (found["image"], found["grid"], found["tokens"]) == ([4, 3, 8, 12], "4x4x6", 96)
    assert all(path["steps"] == 96 for layer in found["schedule"] for path in layer["paths"])
    assert [path["along"] for layer in found["schedule"] for path in layer["paths"]] == ["rows", "columns", "time"]
    picture = json.loads(call("zigma:width=32,depth=3,patch=2", "--grid", "8x12", "--json"))
    assert found["forward_flops"]["scan"] == 4 * picture["forward_flops"]["scan"]


def test_the_name_alone_shows_its_options_as_ever(call):
    assert "size B/PATCH: width 768, depth 24" in call("zigma")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["zigma/Q/2"], 2, "has no size 'Q/2'; expected NAME/PATCH with a name of S, B, M, L, H; did you mean 'S/2'"),
        (["zigma/B"], 2, "has no size 'B'"),
        (["zigmo/B/2"], 2, "no backbone is called 'zigmo'"),
        (["zigma", "--grid", "8x8"], 2, "the network's size is missing; expected zigma/SIZE/PATCH"),
        (["zigma/B/3", "--grid", "32x32"], 3, "--grid 32x32: patches of 3 x 3 do not divide an image of 32 x 32"),
        (["zigma/B/2", "--grid", "32"], 2, "--grid: not a grid"),
        (["dit/B/2", "--grid", "2x32x32"], 3, "dit and sit"),
        (["zigma:width=32,depth=2,patch=2,positions=sincos", "--grid", "2x8x8"], 3, "defined for single images"),
        (["zigma/B/2", "--scan", "zigzga"], 2, "no scan is called 'zigzga'"),
        (["zigma/B/2", "--scan", "zigzag", "--set", "paths=9"], 2, "option 'paths' has a wrong value"),
        (["zigma/B/2", "--scan", "zigzag:paths=2", "--set", "paths=2"], 2, "the option 'paths' is listed twice"),
        (["zigma/B/2", "--scan", "zigzag-video"], 3, "scan 'zigzag-video' of zigma-bench, layer 0"),
        (["vision-mamba/B/2", "--scan", "raster"], 3, "two paths with separate parameters"),
        (["dit/B/2", "--scan", "raster"], 2, "the order of tokens does not matter to dit; leave it out"),
        (["zigma/B/2", "--backend", "naive"], 2, "no estimate of the memory of this backend"),
        (["zigma/B/2", "--channels", "0"], 2, "at least one channel"),
        (["zigma/B/2:width=8"], 2, "size 'B/2' already sets width"),
        (["zigma/B/2:name=dit"], 2, "'name' is not an option"),
        (["zigma:width=97,depth=2,patch=2,mixer=mamba-2"], 3, "heads of 64 channels do not divide"),
    ],
)  # fmt: skip
def test_bad_input_is_one_error(call, words, code, expected):
    assert expected in call(*words, code=code)


@dataclass(frozen=True)
class Plain(DitOptions):
    """A plugin's network with a cost formula that has no parts and no memory estimate."""


def test_a_plugin_that_tells_less_is_shown_with_what_it_tells(call):
    def cost(*given, **rest):
        known = dit_cost(*given, **rest)
        return Cost(known.parameters, known.forward_flops)

    backbones = catalogue().backbones
    facts = BackboneFacts(order="free", cost=cost)
    backbones.add(target_spec("backbone", "plain", "m:f", options=Plain, facts=facts, owner="test"))
    try:
        out = call("plain:width=32,depth=2,patch=2")
    finally:
        del backbones._specs["plain"]
    assert "not broken down" in out
    assert "the backbone 'plain' of test has no estimate of its activation memory" in out


def test_it_answers_without_torch():
    code = (
        "import sys; sys.argv = ['zigma-bench', 'backbones', 'show', 'zigma/B/2', '--scan', 'hilbert']\n"
        "from zigma_bench.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as error:\n    assert not error.code\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


GRID = Grid(4, 6)
CELLS = np.arange(24).reshape(4, 6)


@pytest.mark.parametrize(
    ("path", "begins", "along"),
    [
        (CELLS.ravel(), "top left", "rows"),
        (CELLS[:, ::-1].ravel(), "top right", "rows"),
        (CELLS[::-1].T.ravel(), "bottom left", "columns"),
        (CELLS[::-1, ::-1].T.ravel(), "bottom right", "columns"),
        (np.roll(CELLS.ravel(), -8), "(1, 2)", "rows"),
        (np.argsort(np.arange(24) * 7 % 24), "top left", "none"),
        (np.insert(CELLS.ravel(), 0, -1), "top left", "rows"),
    ],
)
def test_a_path_in_words(path, begins, along):
    found = course(path, GRID)
    assert (found.begins, found.along) == (begins, along)
    assert found.first == tuple(path[:16])
    assert found.steps == len(path)
