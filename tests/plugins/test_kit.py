"""`plugins new` writes a plugin that passes its tests at once, and `plugins check` reports every check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zigma_bench.cli.plugins import next_steps
from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.plugins import TEMPLATES
from zigma_bench.plugins.kit import placeholders, write_plugin


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, env=given)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_tests_of_a_new_plugin_pass_at_once(kind, tmp_path):
    folder = write_plugin(f"My.own-{kind}", kind, tmp_path)
    assert folder == tmp_path / f"zigma-bench-My.own-{kind}"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    package = folder / f"zigma_bench_my_own_{kind.replace('-', '_')}"
    assert (package / "py.typed").exists()
    assert not [path for path in folder.rglob("*") if path.is_file() and "{{" in path.read_text()]
    done = run("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", cwd=folder)
    assert done.returncode == 0, done.stdout
    clean = run("ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,I,B,UP,RET", ".", cwd=folder)
    assert clean.returncode == 0, clean.stdout


def test_the_next_step_is_a_path_for_pip():
    steps = next_steps(Path("zigma-bench-mine"), "mine")
    assert (
        steps == "pytest ./zigma-bench-mine; then pip install ./zigma-bench-mine; then zigma-bench plugins check mine"
    )
    assert "pip install '/a b/x'" in next_steps(Path("/a b/x"), "x")


def test_a_new_plugin_installs_and_is_found(tmp_path):
    folder = write_plugin("by-columns", "scan", tmp_path)
    options = ["--no-build-isolation", "--no-deps", "--no-index", "-q", "--target", "site"]
    done = run("pip", "install", *options, str(folder), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checked = run("zigma_bench", "plugins", "check", "by-columns", cwd=tmp_path, PYTHONPATH="site")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.startswith("scan by-columns (zigma-bench-by-columns 0.1.0)\n  ok      options: expected")
    assert checked.stdout.endswith("  all 4 pass\n")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "end-", "é", "{{name}}"])
def test_an_invalid_name_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="can't be the name of a plugin"):
        write_plugin(name, "scan", tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_refusals_leave_nothing_behind(tmp_path):
    with pytest.raises(UnknownName, match="no kind of plugin is called 'scam'"):
        write_plugin("mine", "scam", tmp_path)
    with pytest.raises(UsageError, match="'raster' is already registered by zigma-bench"):
        write_plugin("raster", "scan", tmp_path)
    (tmp_path / "zigma-bench-mine").mkdir()
    with pytest.raises(UsageError, match="the folder already exists"):
        write_plugin("mine", "scan", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReady, match="can't be written"):
        write_plugin("mine", "scan", tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "zigma-bench-mine"]


def test_what_fails_midway_is_taken_away(tmp_path, monkeypatch):
    def full(*arguments, **rest):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(NotReady, match="no space left"):
        write_plugin("mine", "metric", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_package_is_a_module_name():
    assert placeholders("A.b-C_2")["package"] == "zigma_bench_a_b_c_2"


SHORT = """
import numpy as np
from zigma_bench import hookimpl


def short(grid, *, by: int):
    "Leaves the last tokens out."
    return np.arange(max(1, grid.tokens - by))


@hookimpl
def register_scans(register):
    register("short", short)
"""


def test_check_says_what_does_not_hold(tmp_path):
    (tmp_path / "brief.py").write_text(SHORT)
    check = ("zigma_bench", "plugins", "check", "--plugins", ".")
    done = run(*check, "brief", "--set", "by=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED  orders with by 1: expected each layer's paths visit every token once" in done.stdout
    assert "it has 1 steps for 2 tokens; token 1 is never visited" in done.stdout
    assert done.stdout.endswith("1 of 3 checks FAILED\n")
    (report,) = json.loads(run(*check, "scan:short", "--set", "by=0", "--json", cwd=tmp_path).stdout)
    assert report["ok"]
    assert {check["what"] for check in report["checks"]} == {"options", "imports without torch", "orders with by 0"}
    needs = run(*check, "short", cwd=tmp_path)
    assert needs.returncode == 2
    assert "values for by, got none; set each with --set OPTION=VALUE" in needs.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scan:rastre", "no scan is called 'rastre'; expected one of"),
        ("scam:raster", "no kind of plugin is called 'scam'"),
        ("rastre", "no plugin or registered object is called 'rastre'"),
    ],
)
def test_check_of_what_is_not_there(name, words, tmp_path):
    done = run("zigma_bench", "plugins", "check", name, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "did you mean" in done.stderr


def test_check_of_a_plugin_set_aside_says_why(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    done = run("zigma_bench", "--plugins", ".", "plugins", "check", "broken", cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED  registers: broken.py:1: ModuleNotFoundError: No module named 'no_such_thing'" in done.stdout
