"""What CONTRIBUTING.md and plugins/README.md promise of an addition: one file as a plugin; as a built-in, one file and
a registration in the module that CONTRIBUTING's table names.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.ops.backends import BACKENDS
from zigma_bench.plugins.discovery import BUILTIN, BUILTIN_MODULES, HOOKS, catalogue
from zigma_bench.plugins.files import FOLDERS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "zigma_bench"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

# Each addition twice: as the text of a built-in, and as a plugin of one file.
ORG = '''
def to_org(tables):
    """Tables of Org mode: the backbone, the scan, and the mean of each metric."""
    lines = []
    for table in tables:
        lines += [f"* {table.suite}", " | ".join(["| backbone", "scan", *table.metric_names, ""])]
        for row in table.rows:
            found = [row.metrics.get(name) for name in table.metric_names]
            means = ["" if one is None or one.mean is None else f"{one.mean:.4g}" for one in found]
            lines.append(" | ".join([f"| {row.backbone or ''}", row.scan or "", *means, ""]))
    return "\\n".join(lines)
'''
ORG_PLUGIN = f"""
from zigma_bench import hookimpl

{ORG}

@hookimpl
def register_report_formats(register):
    register("org", to_org)
"""
PIXELS = '''
from dataclasses import dataclass


@dataclass(frozen=True)
class PixelsOptions:
    """The pixels of an image resized to 8 x 8."""


def open_pixels(options):
    from torch import nn

    class Pixels(nn.Module):
        def forward(self, pixels):  # uint8 [B, 3, H, W] -> [B, 192]
            return nn.functional.interpolate(pixels.float(), (8, 8), mode="bilinear", antialias=True).flatten(1)

    return Pixels()
'''
PIXELS_PLUGIN = f"""
from zigma_bench import hookimpl
from zigma_bench.plugins.registry import ExtractorFacts
{PIXELS}

@hookimpl
def register_extractors(register):
    facts = ExtractorFacts(dimensions=192, network="pixel")
    register("pixels", "pixel_features:open_pixels", options=PixelsOptions, facts=facts)
"""
MAX = '''

class MaxMerge(nn.Module):
    """The largest of the paths' outputs."""

    def __init__(self, paths, channels):
        super().__init__()

    def forward(self, outputs):
        return torch.stack(outputs).amax(0)
'''
MAX_PLUGIN = '''
from typing import Literal

import numpy as np

from zigma_bench import hookimpl
from zigma_bench.plugins.registry import MergeFacts
from zigma_bench.scans.route import Route


def build(paths, channels):
    import torch
    from torch import nn

    class Max(nn.Module):
        def forward(self, outputs):
            return torch.stack(outputs).amax(0)

    return Max()


def both_ways(grid, *, merge: Literal["max", "sum"] = "max"):
    """Raster there and back."""
    tokens = np.arange(grid.tokens)
    return Route(np.stack([tokens, tokens[::-1]]), merge=merge)


@hookimpl
def register_merges(register):
    register("max", "largest_of_paths:build", doc="The largest of the paths' outputs.", facts=MergeFacts())


@hookimpl
def register_scans(register):
    register("both-ways", both_ways)
'''
PLUGINS = {"largest_of_paths.py": MAX_PLUGIN, "org_tables.py": ORG_PLUGIN, "pixel_features.py": PIXELS_PLUGIN}
SUITE = """# Does the larger of two outputs beat their sum?
name: largest
data: {name: digits}
compare:
  - backbone: {name: zigma, width: 32, depth: 2, patch: 2}
    scans: [both-ways, {name: both-ways, merge: sum}]
seeds: [0]
budget: {images: 64}
reference: {split: train}
train: {batch: 16}
sample: {count: 32, batch: 32, evaluations: 2}
quality: [fd-pixels, kid-pixels]
"""

# As built-ins: the file and its text, and what is added to the module of the registration.
BUILT_INS = {
    "merge": ("mixers/merges.py", MAX, 'MERGES["max"] = ("MaxMerge", "The largest output.", MergeFacts())'),
    "extractor": (
        "metrics/pixels.py",
        PIXELS,
        "    from zigma_bench.metrics.pixels import PixelsOptions\n"
        '    register("pixels", "zigma_bench.metrics.pixels:open_pixels", options=PixelsOptions, '
        "facts=ExtractorFacts(192))",
    ),
    "report-format": (
        "reports/org.py",
        ORG,
        '    register("org", "zigma_bench.reports.org:to_org", doc="Tables of Org mode")',
    ),
}

USE_BUILT_INS = """
import torch

from zigma_bench.plugins.discovery import catalogue
from zigma_bench.testing import check_report_format

found = [catalogue().get(*words) for words in (
    ("merge", "max"), ("extractor", "pixels"), ("metric", "fd-pixels"), ("report-format", "org")
)]
merge, extractor = found[0].load()(paths=2, channels=3), found[1].load()(found[1].make_options({}))
one, two = torch.rand(2, 5, 4, 3)
assert torch.equal(merge([one, two]), torch.maximum(one, two))
assert extractor(torch.zeros(2, 3, 9, 9, dtype=torch.uint8)).shape == (2, found[1].facts.dimensions)
check_report_format("org")
print(*(f"{spec.owner} {spec.name}" for spec in found), sep="\\n")
"""

ROWS = {
    "scan": "a scan order",
    "merge": "a merge of several paths",
    "mixer": "a mixer",
    "backbone": "a backbone",
    "dataset": "a data set",
    "transform": "a transform",
    "metric": "a metric",
    "extractor": "a feature extractor",
    "report-format": "a report format",
    "executor": "an executor",
}


def contributing_table() -> dict[str, tuple[list[str], list[str]]]:
    """The paths that each row of `To add X, touch Y` names: what to write, and where to register it."""
    section = re.search(r"\n## To add X, touch Y\n(.*?)\n## ", CONTRIBUTING, re.DOTALL).group(1)
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)[1:]
    found = {what: tuple(re.findall(r"`([\w./]+/[\w./]*)`", cell) for cell in cells) for what, *cells in rows}
    return {what: (write, register) for what, (write, register) in found.items()}


TABLE = contributing_table()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of plugins, of one file each. What `--plugins` does to this process ends with the test."""
    place = tmp_path / "additions"
    place.mkdir()
    for name, text in PLUGINS.items():
        (place / name).write_text(text)
    monkeypatch.setenv(FOLDERS, "")
    monkeypatch.delenv("ZIGMA_BENCH_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)
    catalogue.cache_clear()
    yield place
    catalogue.cache_clear()
    for name in PLUGINS:
        sys.modules.pop(Path(name).stem, None)


def zigma_bench(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout


def test_each_is_a_plugin_of_one_file(folder, cells_in_this_process):
    """A merge, an extractor and a report format keep their contracts, run in one suite, and stand in its report."""
    (folder.parent / "suite.yaml").write_text(SUITE)
    use = ("--plugins", str(folder))
    for name in ("merge:max", "extractor:pixels", "org"):
        assert "FAIL" not in zigma_bench(*use, "plugins", "check", name)
    zigma_bench(*use, "run", "suite.yaml", "--smoke")
    rows = json.loads(zigma_bench(*use, "report", "--json"))["rows"]
    cells = {row["scan"]: row["metrics"] for row in rows if row["role"] == "cell"}
    assert set(cells) == {"both-ways", "both-ways merge=sum"}
    for name in ("fd-pixels", "kid-pixels"):
        larger, total = (metrics[name]["mean"] for metrics in cells.values())
        assert larger and total and larger != total
    org = zigma_bench(*use, "report", "--format", "org").splitlines()
    assert org[:2] == ["* largest", "| backbone | scan | fd-pixels | kid-pixels | "]
    assert len(org) == 2 + len(rows)
    assert re.fullmatch(r"\| zigma \| both-ways( \| [\d.e+-]+){2} \| ", org[3])


def test_each_is_a_built_in_of_one_file_and_a_registration(tmp_path):
    """In a copy of the package: the file of the second column, and lines at the end of the module of the third."""
    copy = shutil.copytree(PACKAGE, tmp_path / "zigma_bench")
    for kind, (file, text, registration) in BUILT_INS.items():
        write, (module,) = TABLE[ROWS[kind]]
        assert file in write or f"{Path(file).parent}/" in write
        for path, added in ((copy / file, text), (copy / module, registration)):
            path.write_text((path.read_text() if path.exists() else "") + added + "\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", USE_BUILT_INS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"zigma-bench {name}" for name in ("max", "pixels", "fd-pixels", "org")]


def registering_modules() -> dict[str, set[str]]:
    """By kind, the files of the package whose code calls `register`."""
    found: dict[str, set[str]] = {kind: set() for kind in HOOKS.values()}
    for module in map(importlib.import_module, BUILTIN_MODULES):
        for hook, kind in HOOKS.items():

            def register(*words, kind=kind, **rest):
                found[kind].add(str(Path(sys._getframe(1).f_code.co_filename).relative_to(PACKAGE)))

            getattr(module, hook, lambda register: None)(register)
    return found


@pytest.mark.parametrize("kind", HOOKS.values())
def test_the_table_names_the_module_that_registers(kind):
    registering = registering_modules()[kind]
    assert registering == set(TABLE[ROWS[kind]][1])
    assert len(registering) == 1 or kind == "metric"
    assert any(spec.owner == BUILTIN for spec in catalogue().registry(kind))


def test_the_table_names_paths_that_exist():
    assert set(ROWS.values()) <= set(TABLE)
    for what, (write, register) in TABLE.items():
        assert write, what
        for path in (*write, *register):
            assert (PACKAGE / path).is_dir() if path.endswith("/") else (PACKAGE / path).is_file(), path


def test_the_table_names_the_module_that_lists_the_backends():
    write, (module,) = TABLE["a backend of the operators"]
    listing = sys.modules[f"zigma_bench.{module.removesuffix('/__init__.py').replace('/', '.')}"]
    assert listing.BACKENDS is BACKENDS
    assert f"{Path(module).parent}/" in write


def test_the_files_beside_the_table_list_every_built_in_name():
    """The help of `report` names each built-in report format, as CONTRIBUTING asks."""
    formats = [spec.name for spec in catalogue().report_formats if spec.owner == BUILTIN]
    told = re.search(r"--format <str>\s+(.*?)\[default", " ".join(zigma_bench("report", "--help").split())).group(1)
    assert set(formats) <= set(re.findall(r"[\w-]+", told))
    for path in re.findall(r"`((?:tests|zigma_bench)/[\w./]+)`", CONTRIBUTING):
        assert (ROOT / path).exists(), path


def test_the_layers_are_those_that_lint_imports_enforces():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    diagram = re.search(r"\n## The layers\n.*?```\n(.*?)```", CONTRIBUTING, re.DOTALL).group(1)
    layers = [re.split(r" {2,}", line)[0] for line in diagram.splitlines()]
    assert [layer for line in layers for layer in line.split(", ")] == contract["layers"]
