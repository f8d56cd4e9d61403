"""A backbone, an extractor and a report format, each in one file of the plugin pages, in one suite from end to end."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from pages import code_blocks
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.files import FOLDERS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "plugins" / name for name in ("backbones.md", "metrics.md")]
BLOCKS = {block.title: block.text for page in PAGES for block in code_blocks(page) if block.title}
FILES = ("my_nets/conv.py", "my_parts/quarters.py", "my_parts/latex.py")
LABELLED = '''
import torch
from torch import nn

from zigma_bench import hookimpl


class Labelled(nn.Module):
    """One convolution, shifted by an embedding of the class."""

    def __init__(self, *, channels, classes, height, width, null_class: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.shift = nn.Embedding(classes + 1, channels * height * width)

    def forward(self, x, t, condition):
        return self.conv(x) * t[:, None, None, None] + self.shift(condition).view_as(x)


@hookimpl
def register_backbones(register):
    register("labelled", Labelled)
'''
SUITE = """# Do they work together?
name: together
data: {name: digits}
compare:
  - backbone: {name: conv, dim: 8}
  - backbone: {name: labelled}
  - backbone: {name: dit, width: 32, depth: 1, patch: 4}
seeds: [0]
budget: {flops: 3.0e+7}
reference: {split: train}
train: {batch: 16}
sample: {count: 16, batch: 16, evaluations: 2}
quality: [fd-quarters]
"""


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with the files as plugins of this process."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    for file in FILES:
        (folder / Path(file).name).write_text(BLOCKS[file])
    (folder / "labelled.py").write_text(LABELLED)
    (tmp_path / "suite.yaml").write_text(SUITE)
    monkeypatch.setenv(FOLDERS, str(folder))
    monkeypatch.delenv("ZIGMA_BENCH_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)
    catalogue.cache_clear()
    yield tmp_path
    catalogue.cache_clear()
    for file in folder.glob("*.py"):
        sys.modules.pop(file.stem, None)


def zigma_bench(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout


def test_they_run_in_one_suite(desk, cells_in_this_process):
    plan = json.loads(zigma_bench("plan", "suite.yaml", "--json"))
    cells = {cell["backbone"]["name"]: cell for cell in plan["cells"] if cell["role"] == "cell"}
    assert [cells[name]["flops_by"] for name in ("conv", "labelled", "dit")] == ["counter", "counter", "formula"]
    assert cells["labelled"]["backbone"]["options"] == {"classes": 10, "null_class": True}
    conv = sum(cells["conv"]["forward_flops"].values())
    assert conv == 2 * 64 * 9 * (2 * 8 + 8)  # two convolutions of 3 x 3 on 8 x 8 pixels: 2 -> 8 -> 1 channels
    assert cells["conv"]["train_images"] == int(3e7 / (3 * conv))
    assert " §" in zigma_bench("plan", "suite.yaml")

    zigma_bench("run", "suite.yaml")
    markdown = zigma_bench("report", "--format", "markdown")
    marked = {line.split("|")[2].strip() for line in markdown.splitlines() if " § |" in line}
    assert marked == {"conv", "labelled", "untrained conv"}
    assert "§ FLOPs measured by PyTorch's counter" in markdown
    assert "§ FLOPs measured by PyTorch's counter" in zigma_bench("report")
    rows = json.loads(zigma_bench("report", "--json"))["rows"]
    lines = list(csv.DictReader(io.StringIO(zigma_bench("report", "--format", "csv"))))
    for found in (rows, lines):
        assert {row["flops_by"] for row in found if row["backbone"] == "conv"} == {"counter"}
        assert {row["flops_by"] for row in found if row["backbone"] == "dit"} == {"formula"}
    assert all(row["metrics"]["fd-quarters"]["mean"] > 0 for row in rows)
    latex = zigma_bench("report", "--format", "latex")
    assert latex.count(r" \\") == 5
    assert re.search(r"^labelled &  & [\de.+]+ \\\\$", latex, re.MULTILINE)


def test_each_has_few_lines():
    for file, most in zip(FILES, (15, 21, 15), strict=True):
        lines = [line for line in BLOCKS[file].splitlines() if line.strip()]
        assert len(lines) <= most, file


def test_an_unknown_format_has_its_nearest(desk):
    done = CliRunner().invoke(app, ["report", "--format", "latx"])
    assert done.exit_code == 2 or "latex" in str(done.exception)
    assert "did you mean 'latex'" in done.output + str(done.exception)


def test_a_network_is_shown_with_what_was_counted(desk):
    shown = zigma_bench("backbones", "show", "conv:dim=8", "--grid", "8x8", "--channels", "1")
    assert "PyTorch's counter" in shown and "by formula" not in shown
    document = json.loads(zigma_bench("backbones", "show", "conv:dim=8", "--grid", "8x8", "--channels", "1", "--json"))
    assert document["forward_flops"]["by"] == "counter"
    assert document["parameters"]["total"] == 2 * 8 * 9 + 8 + 8 * 9 + 1
