"""The example plugin passes the check, and is found when installed as a distribution."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zigma_bench.testing import check_scan

SOURCE = Path(__file__).resolve().parents[2] / "plugins" / "rings"
LIST = """
import json, sys
sys.path[:0] = {paths!r}
from zigma_bench.plugins import discovery
discovery.BUILTIN_MODULES = ("zigma_bench.scans",)
found = discovery.catalogue()
spec = found.scans.get("rings")
print(json.dumps([spec.owner, [o.name for o in spec.options], "torch" in sys.modules, len(found.problems)]))
"""


@pytest.fixture
def rings(monkeypatch):
    monkeypatch.syspath_prepend(str(SOURCE))
    from zigma_bench_rings import rings

    return rings


def listed(*paths: Path) -> list[object]:
    """The entry of `rings` in the catalogue of a fresh process with these folders on its path."""
    code = LIST.format(paths=[str(path) for path in paths])
    env = {**os.environ, "ZIGMA_BENCH_PLUGINS": "rings"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=SOURCE.parents[1])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_keeps_the_contract(rings):
    report = check_scan(rings)
    assert len(report.checked) == 2 * 21
    assert set(report.refused) == {f"{g} {{'outward': {i}}}" for g in ("2x3x4", "3x4x4") for i in (False, True)}


def test_its_entry_point_leads_to_the_catalogue(tmp_path):
    """The metadata that an installer would write, from the distribution's own pyproject.toml."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "zigma_bench_rings-0.dist-info"
    info.mkdir()
    version = project["version"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    lines = [f"{name} = {target}" for name, target in project["entry-points"]["zigma_bench"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[zigma_bench]", *lines, ""]))
    assert listed(SOURCE, tmp_path) == [f"zigma-bench-rings {version}", ["outward"], False, 0]


def test_it_installs(tmp_path):
    """A wheel built and installed by pip into a separate folder, without the network."""
    if any(importlib.util.find_spec(module) is None for module in ("hatchling", "pip")):
        pytest.skip("hatchling or pip is not installed")
    copy = tmp_path / "source"
    for file in ("pyproject.toml", "README.md", "zigma_bench_rings/__init__.py", "zigma_bench_rings/py.typed"):
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes((SOURCE / file).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(tmp_path / "site"), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "zigma_bench_rings" / "py.typed").exists()
    assert listed(tmp_path / "site") == ["zigma-bench-rings 0.1.0", ["outward"], False, 0]


def test_where_it_is_installed_the_catalogue_lists_it():
    try:
        version = importlib.metadata.version("zigma-bench-rings")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("zigma-bench-rings is not installed")
    assert listed()[0] == f"zigma-bench-rings {version}"
