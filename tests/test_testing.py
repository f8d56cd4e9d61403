"""The conformance check for plugin authors passes good scans and says what is wrong with broken ones."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Literal

import numpy as np
import pytest

from zigma_bench import scans
from zigma_bench.errors import NotReady
from zigma_bench.grid import Grid
from zigma_bench.testing import GRIDS, check_scan


@pytest.mark.parametrize("name", ["raster", "sweep", "bidirectional", "zigzag"])
def test_the_built_ins_pass(name):
    report = check_scan(getattr(scans, name))
    clips = sum(grid.video for grid in GRIDS)
    sets = {"raster": 1, "sweep": 4, "bidirectional": 2, "zigzag": 2}[name]  # choices of a Literal, ends of a range
    refused = sets * clips if name in ("sweep", "zigzag") else 0
    assert len(report.refused) == refused
    assert len(report.checked) == sets * len(GRIDS) - refused
    assert all("order of one picture" in reason for reason in report.refused.values())


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
        (unseeded, "expected the same paths whenever layer [0-9]+ is asked for, got"),
        (counting, "keep no state between calls"),
        (wrong_on_rectangles, "1x2: scan 'wrong_on_rectangles'.*it has 1 steps for 2 tokens"),
        (with_torch, "failed on the grid 1x1 with ModuleNotFoundError: import of torch halted"),
        (never, "expected at least one grid that it takes, got only refusals.*not today"),
        (wrong_for_one_choice, "'turn': 'right'.*step 1 visits token 0 again"),
        (wrong_when_deep, "layer 8: path 0: step 0 visits token 1, outside 0 to 0"),
        (needs_a_number, "expected `options=` with values for by"),
        (positional, "expected a scan that registers, got: .*takes an argument 'paths'"),
        (undocumented, "no docstring"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_broken_is_told(scan, words):
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


def test_a_module_that_imports_torch_is_told(tmp_path, monkeypatch):
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
