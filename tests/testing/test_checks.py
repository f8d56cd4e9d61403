"""The conformance check for plugin authors passes good scans and says what is wrong with broken ones."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import pytest

from zigma_bench import hookimpl
from zigma_bench.errors import NotReady
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.testing import (
    GRIDS,
    check_backbone,
    check_dataset,
    check_merge,
    check_metric,
    check_mixer,
    check_plugin,
    check_scan,
    report_of,
)
from zigma_bench.testing.lookup import find_spec


@pytest.mark.parametrize("spec", list(catalogue().scans), ids=lambda spec: spec.name)
def test_every_scan_passes(spec):
    """The built-in scans, including pads and segments, on the grids that they accept."""
    report = check_scan(spec, grids=["4x4", "4x6", "2x3x4"])
    assert report.checked
    assert all(reason for reason in report.refused.values())


def test_only_clips_are_refused():
    report = check_scan("sweep", options=[{"paths": 8}])
    clips = sum(grid.video for grid in GRIDS)
    assert (len(report.refused), len(report.checked)) == (clips, len(GRIDS) - clips)
    assert all("order for single images" in reason for reason in report.refused.values())


def test_a_registered_name_is_looked_up():
    assert check_scan("raster", grids=["3x4"]).checked == ("3x4",)
    with pytest.raises(AssertionError, match=r"no scan is called 'rastre'.*did you mean 'raster'"):
        check_scan("rastre")


def unseeded(grid):
    """Draws from the global generator."""
    return np.random.permutation(grid.tokens)


def seeded(grid, layer, seed):
    """Draws from a generator of its own."""
    return np.random.default_rng([seed, layer]).permutation(grid.tokens)


COUNTER = [0]


def counting(grid):
    """Keeps state between calls."""
    COUNTER[0] += 1
    return np.roll(np.arange(grid.tokens), COUNTER[0])


def squares_only(grid):
    """Any square."""
    if not grid.square or grid.video:
        raise NotReady("this order needs a square")
    return np.arange(grid.tokens)


def wrong_on_rectangles(grid):
    """Forgets that a grid has two sides."""
    return np.arange(grid.height * grid.height)


def with_torch(grid):
    """Imports torch when called."""
    import torch

    return torch.arange(grid.tokens).numpy()


def never(grid):
    """Refuses all grids."""
    raise NotReady("not today")


def wrong_for_one_choice(grid, *, turn: Literal["left", "right"] = "left"):
    """Is broken for a choice that is not the default."""
    return np.arange(grid.tokens) if turn == "left" else np.zeros(grid.tokens, int)


def wrong_when_deep(grid, layer):
    """Is broken in the ninth layer."""
    return np.arange(grid.tokens) + (layer == 8)


def needs_a_number(grid, *, by: int):
    """Has a required option that lists no values."""
    return np.roll(np.arange(grid.tokens), by)


def positional(grid, paths):
    """Takes an option before the star."""


def undocumented(grid):
    return np.arange(grid.tokens)


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (unseeded, "expected the same paths for layer [0-9]+ each time, got"),
        (counting, "keep no state between calls"),
        (wrong_on_rectangles, "1x2: scan 'wrong_on_rectangles'.*it has 1 steps for 2 tokens"),
        (with_torch, "failed on the grid 1x1 with ModuleNotFoundError: import of torch halted"),
        (never, "expected at least one grid that it accepts, got only refusals.*not today"),
        (wrong_for_one_choice, "'turn': 'right'.*step 1 visits token 0 again"),
        (wrong_when_deep, "layer 8: path 0: step 0 visits token 1, outside 0 to 0"),
        (needs_a_number, "expected `options=` with values for by"),
        (positional, "expected a scan that registers, got: .*has an argument 'paths'"),
        (undocumented, "no docstring"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_scans_are_reported(scan, words):
    with pytest.raises(AssertionError, match=words):
        check_scan(scan)


def test_a_refusal_is_reported():
    report = check_scan(squares_only, grids=["4x4", Grid(2, 3), "5x5"])
    assert report.checked == ("4x4", "5x5")
    assert list(report.refused) == ["2x3"]
    assert "this order needs a square" in report.refused["2x3"]


def test_a_seeded_random_order_passes():
    assert len(check_scan(seeded).checked) == len(GRIDS)


def test_given_options_are_gone_through():
    assert check_scan(needs_a_number, grids=["2x3"], options=[{"by": 1}, {"by": 4}]).checked == (
        "2x3 {'by': 1}",
        "2x3 {'by': 4}",
    )


def test_a_module_that_imports_torch_is_reported(tmp_path, monkeypatch):
    (tmp_path / "heavy_scan.py").write_text(
        'import math\n\n\ndef light(grid):\n    """Raster."""\n    return list(range(grid.tokens))\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import heavy_scan

    assert check_scan(heavy_scan.light, grids=["2x2"]).checked == ("2x2",)
    (tmp_path / "heavier_scan.py").write_text((tmp_path / "heavy_scan.py").read_text().replace("math", "torch"))
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))  # here it imports; in the check's process it can't
    import heavier_scan

    with pytest.raises(
        AssertionError, match=r"expected module heavier_scan to import without torch(.|\n)*import torch"
    ):
        check_scan(heavier_scan.light, grids=["2x2"])


def test_torch_is_in_reach_again_afterwards():
    before = sys.modules.get("torch")
    with pytest.raises(AssertionError):
        check_scan(with_torch)
    assert sys.modules.get("torch") is before
    assert before is not None or "torch" not in sys.modules


def shared_out(grid, *, pads: bool = False):
    """Two paths that each visit a part of the tokens, or one path with a pad."""
    tokens = np.arange(grid.tokens)
    if pads:
        return Route(np.append(tokens, -1), pads=[[0]])
    return Route(tokens.reshape(2, -1), merge="scatter") if grid.tokens % 2 == 0 else tokens


def test_the_inverse_of_pads_and_of_shared_tokens():
    assert len(check_scan(shared_out).checked) == 2 * len(GRIDS)


def test_a_wrong_inverse_is_reported(monkeypatch):
    monkeypatch.setattr(Route, "inverse", property(lambda route: route.paths))
    with pytest.raises(AssertionError, match="expected the inverse to undo the path"):
        check_scan(seeded, grids=["3x4"])


@pytest.mark.parametrize("spec", list(catalogue().backbones), ids=lambda spec: spec.name)
def test_every_backbone_passes(spec):
    assert check_backbone(spec).ok


@pytest.mark.parametrize("spec", list(catalogue().mixers), ids=lambda spec: spec.name)
def test_every_mixer_passes(spec):
    assert check_mixer(spec).ok


@pytest.mark.parametrize("spec", list(catalogue().merges), ids=lambda spec: spec.name)
def test_every_merge_passes(spec):
    assert check_merge(spec).ok


def test_metrics_and_datasets_pass():
    assert check_metric("val-loss").ok
    assert check_dataset("digits").ok
    with pytest.raises(NotReady, match="fid can't be checked here"):
        check_metric("fid", weights="/no/such/file")


BROKEN = Path(__file__).parent / "broken_plugins.py"


@pytest.fixture(scope="module")
def broken():
    """A module of plugins that each break one rule."""
    spec = spec_from_file_location("broken_plugins", BROKEN)
    module = sys.modules["broken_plugins"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "name", "what", "got"),
    [
        ("mixer", "leaky", "samples apart", "the output of a sample on its own differs"),
        ("mixer", "wrong-cost", "parameters", "1,025 by the formula, 1,024 built"),
        ("mixer", "unseeded", "initial weights", "differs between two builds"),
        ("mixer", "forgotten", "initial weights", "is not initialised"),
        ("mixer", "unused", "gradients", "no gradient for unused.weight"),
        ("mixer", "narrow", "output", r"\[3, 24, 31\]"),
        ("mixer", "hidden-state", "state dict", "outputs differ"),
        ("mixer", "raises", "builds", r"ZeroDivisionError.*broken_plugins.py:[0-9]+"),
        ("merge", "wrong-merge-cost", "parameters", "0 by the formula, 128 built"),
        ("merge", "first-path-alone", "in a mixer: gradients", "no gradient for"),
        ("merge", "narrow-merge", "output", r"\[3, 24, 63\]"),
        ("merge", "sum", "name", "the merge of zigma-bench"),
        ("backbone", "says-free", "order", "the output differs by"),
        ("backbone", "says-scan", "order", "the same output for"),
        ("metric", "wrong-unit", "value", "a value in the unit 'metre'"),
        ("metric", "by-chance", "repetition", "then"),
        ("metric", "bare", "fingerprint", "the same for a different reference"),
        ("metric", "not-a-number", "value", "status 'ok' with the value nan"),
        ("dataset", "overlapping", "held out", "4 of 4 validation images are training images"),
        ("dataset", "other-size", "training images", r"\(8, 1, 4, 4\)"),
        ("dataset", "other-each-time", "loaded again", "different images"),
        ("dataset", "misplaced", "description", "places names 'folder', which isn't an option"),
        ("dataset", "silent", "captions", "an empty one, for image 1"),
    ],
)
def test_each_broken_rule_is_reported(broken, kind, name, what, got):
    spec = find_spec(kind, name, broken)
    report = report_of(spec, plugin=broken)
    failed = {check.what: check.got for check in report.checks if not check.ok}
    assert re.search(got, failed.get(what, "")), report.checks
    with pytest.raises(AssertionError, match=what):
        report.require()


def test_a_plugin_that_registers_nothing():
    empty = ModuleType("empty")
    empty.register_scans = hookimpl(lambda register: None)
    with pytest.raises(AssertionError, match="at least one registered object"):
        check_plugin(empty)
