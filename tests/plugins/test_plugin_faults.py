"""Plugins that exit, print, change their order or return wrong results: a named error, and documents stay intact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from zigma_bench.errors import BrokenPlugin, UsageError
from zigma_bench.plan import Resolved, cell_routes
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import (
    Cost,
    DataFacts,
    DatasetFacts,
    LearnedScan,
    MetricFacts,
    guard_spec,
    scan_spec,
    target_spec,
)
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import BrokenScan
from zigma_bench.system.interrupts import Escaped, contain_plugin
from zigma_bench.testing import report_of

HOOK = """
from zigma_bench import hookimpl
@hookimpl
def register_scans(register):
    register("mine", mine)
"""
TALKS = """import atexit, os, subprocess, sys
print("one")
os.write(1, b"two")
subprocess.run(["echo", "three"])
sys.__stdout__.write("four")
atexit.register(print, "five")
def mine(grid):
    "Talks."
    print("six")
    return list(range(grid.tokens))
"""


def cli(folder, *words):
    given = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zigma_bench", "--plugins", ".", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=given, timeout=120)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise KeyboardInterrupt", "bad.py:1: KeyboardInterrupt"),
        ("raise GeneratorExit", "bad.py:1: GeneratorExit"),
        ("class Own(BaseException): ...\nraise Own('x')", "bad.py:2: Own: x"),
    ],
)
def test_whatever_an_import_raises_sets_the_plugin_aside(text, words, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    done = cli(tmp_path, "scans", "list")
    assert done.returncode == 0, done.stderr
    assert words in done.stderr
    assert "hilbert" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_user_s_own_interrupt_is_no_fault_of_a_plugin():
    with pytest.raises(KeyboardInterrupt), contain_plugin():
        signal.raise_signal(signal.SIGINT)
    for error in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(Escaped, match=error.__name__), contain_plugin():
            raise error
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_plugin_prints_is_in_no_document(tmp_path):
    (tmp_path / "talks.py").write_text(TALKS + HOOK)
    done = cli(tmp_path, "scans", "show", "mine", "--grid", "2x2", "--json")
    assert json.loads(done.stdout)
    for word in ("one", "two", "three", "four", "five", "six"):
        assert word in done.stderr


def test_a_scan_that_exits_is_named_in_the_plan(tmp_path, write_suite):
    (tmp_path / "bad.py").write_text('def mine(grid):\n    "Exits."\n    exit(0)\n' + HOOK)
    done = cli(tmp_path, "plan", str(write_suite(("raster", "mine"))))
    assert done.returncode == 3
    assert "scan 'mine' of bad.py" in done.stderr
    assert "SystemExit: 0" in done.stderr
    assert "bad.py:3" in done.stderr


def test_a_dataset_that_exits_in_a_cell_s_process_fails_the_cell(tmp_path, write_suite):
    text = """from dataclasses import dataclass
from zigma_bench import hookimpl
from zigma_bench.plugins.registry import DataFacts, DatasetFacts
@dataclass(frozen=True)
class Options:
    "None."
def load(options):
    exit(0)
@hookimpl
def register_datasets(register):
    describe = lambda options: DataFacts(1, 8, 8, "x")
    register("leaves", "bad:load", options=Options, facts=DatasetFacts(describe=describe))
"""
    (tmp_path / "bad.py").write_text(text)
    suite = write_suite(("{name: digits}", "{name: leaves}"), ("[0, 1]", "[0]"))
    done = cli(tmp_path, "run", str(suite), "--only", "raster")
    assert done.returncode == 1
    assert "SystemExit: 0 (raised at" in done.stdout + done.stderr
    assert "bad.py:8" in done.stdout + done.stderr


def catalogue_of(scan) -> Catalogue:
    found = Catalogue()
    found.scans.add(scan_spec("mine", scan, owner="my-dist 1.0"))
    return found


def test_the_order_is_the_one_that_was_planned():
    def same(grid):
        """Raster."""
        return list(range(grid.tokens))

    asked = Resolved(name="mine", owner="my-dist 1.0", options={})
    given = {"grid": Grid(2, 2), "depth": 2, "seed": 0, "catalogue": catalogue_of(same)}
    planned = [route.digest for route in cell_routes(asked, **given)]
    assert len(cell_routes(asked, **given, planned=planned)) == 2
    with pytest.raises(BrokenScan, match=r"'mine' of my-dist 1.0, layer 1.*planned.*digest 0000.*got") as caught:
        cell_routes(asked, **given, planned=[planned[0], "0" * 64])
    assert planned[1][:12] in str(caught.value)


def test_an_order_that_changes_between_calls_is_refused_by_name():
    calls = []

    def turning(grid):
        """Another each time."""
        calls.append(0)
        return [(token + len(calls)) % grid.tokens for token in range(grid.tokens)]

    asked = Resolved(name="mine", owner="my-dist 1.0", options={})
    with pytest.raises(BrokenScan, match=r"'mine' of my-dist 1.0.*another order when it is called again"):
        cell_routes(asked, grid=Grid(2, 2), depth=2, seed=0, catalogue=catalogue_of(turning))


class Options:
    """None."""


def facts_of(kind, facts):
    import dataclasses

    options = dataclasses.dataclass(frozen=True)(type("Options", (), {"__doc__": "None."}))
    return guard_spec(
        target_spec(kind, "mine", "nowhere:none", options=options, facts=facts, owner="my-dist 1.0")
    ).facts


def test_facts_that_fail_or_give_something_else_are_named():
    with pytest.raises(BrokenPlugin, match=r"`describe` of the dataset 'mine' of my-dist 1.0 failed with SystemExit"):
        facts_of("dataset", DatasetFacts(describe=lambda options: exit(1))).describe(None)
    with pytest.raises(BrokenPlugin, match=r"expected a registry.DataFacts; got 3"):
        facts_of("dataset", DatasetFacts(describe=lambda options: 3)).describe(None)
    cost = facts_of("scan", LearnedScan(cost=lambda options: Cost(0, {"a": 0.5}))).cost
    with pytest.raises(BrokenPlugin, match="whole numbers"):
        cost(None)
    good = facts_of("dataset", DatasetFacts(describe=lambda options: DataFacts(1, 8, 8, "x")))
    assert good.describe(None).height == 8


def test_facts_of_another_kind_are_refused():
    with pytest.raises(UsageError, match="expected DatasetFacts"):
        facts_of("dataset", LearnedScan(cost=print))
    with pytest.raises(UsageError, match="wrong better; expected 'lower' or 'higher'; got 'less'"):
        facts_of("metric", MetricFacts(unit="x", better="less", needs="samples"))


def test_too_many_and_too_few_flops_are_found():
    import torch
    from torch import nn

    from zigma_bench.testing.flops import compare_flops
    from zigma_bench.testing.report import CheckFailed

    def build():
        return nn.Linear(32, 32)

    inputs, exact = (torch.zeros(3, 10, 32),), 2 * 10 * 32 * 32
    assert "20,480 counted" in compare_flops(build, inputs, Cost(0, {"map": exact}))
    for factor in (0.5, 2, 1000):
        with pytest.raises(CheckFailed, match="by the formula"):
            compare_flops(build, inputs, Cost(0, {"map": int(factor * exact)}))


def test_a_learned_order_without_parameters_is_checked(tmp_path, monkeypatch):
    (tmp_path / "by_norm.py").write_text("""from torch import nn, rand
class Norm(nn.Module):
    def __init__(self, options, *, width, grid, layer, depth):
        super().__init__()
    def forward(self, x):
        return x.norm(dim=-1).argsort(1)[:, None], None
class Chance(Norm):
    def forward(self, x):
        return rand(x.shape[:2]).argsort(1)[:, None], None
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class None_:
        """By norm."""

    facts = LearnedScan(cost=lambda options, *, width, grid: Cost(0, {}))
    for name, right in (("Norm", True), ("Chance", False)):
        spec = target_spec("scan", "mine", f"by_norm:{name}", options=None_, facts=facts, owner="my-dist 1.0")
        checks = {check.what: check.ok for check in report_of(spec).checks}
        assert checks["FLOPs"]
        assert checks["paths again"] is right
        assert all(checks.values()) is right
