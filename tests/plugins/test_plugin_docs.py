"""plugins/README.md is correct: its files and commands work, from top to bottom, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zigma_bench.plugins import hookspecs
from zigma_bench.plugins.discovery import HOOKS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "plugins" / "README.md").read_text()
BLOCKS = re.findall(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for _, language, text in BLOCKS if language == "sh" for line in text.splitlines()]
PIP = ["--no-build-isolation", "--no-deps", "--no-index", "-q", "--target", "site"]
QUICK = ["--smoke", "--set", "quality=[]", "--set", "efficiency=null"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with the suites and every file of the page."""
    folder = tmp_path_factory.mktemp("author")
    shutil.copytree(ROOT / "suites", folder / "suites")
    for name, _, text in BLOCKS:
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    return folder


def run(desk: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "site", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(words, cwd=desk, capture_output=True, text=True, env=environment)


def test_the_commands_run_from_top_to_bottom(desk):
    """As written, but pip must not reach the network, and `run` is short: at toy scale, without quality and speed."""
    for command in COMMANDS:
        program, *rest = shlex.split(command)
        if program == "zigma-bench":
            words = ["-m", "zigma_bench", *rest, *(QUICK if "run" in rest else ())]
        else:
            words = ["-m", program, *rest, *(PIP if program == "pip" else ("-p", "no:cacheprovider"))]
        done = run(desk, [sys.executable, *words])
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "set aside" not in done.stderr, command
        assert not ("run" in rest and "columns" not in done.stdout), done.stdout
    assert list(desk.glob("results/quickstart/smoke-*/zigma-columns-*/train-*/record.json"))


def test_every_file_of_the_page_is_checked(desk):
    plugins = [Path(name).stem for name, _, _ in BLOCKS if name.startswith("my_") and "/" in name]
    checked = {shlex.split(command)[-1].replace("-", "_") for command in COMMANDS if "plugins check" in command}
    assert set(plugins) <= checked


def test_the_suite_plans(desk):
    done = run(desk, [sys.executable, "-m", "zigma_bench", "plan", "columns.yaml", "--plugins=my_scans"])
    assert done.returncode == 0, done.stderr
    assert "columns" in done.stdout


def test_the_test_passes(desk):
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=my_scans", "my_scans_test.py"]
    done = run(desk, [sys.executable, *words])
    assert done.returncode == 0, done.stdout


def test_the_distribution_is_what_an_installer_reads(desk):
    found = tomllib.loads((desk / "pyproject.toml").read_text())
    assert found["project"]["entry-points"][hookspecs.PROJECT] == {"columns": "columns"}


def test_the_first_scan_has_ten_lines(desk):
    lines = (desk / "my_scans" / "columns.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 10
    assert not [line for line in COMMANDS if line.startswith("zigma-bench") and len(line) > 140]


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("register_")])
def test_every_hook_is_documented_with_its_calls(hook):
    assert hook in HOOKS
    assert f"`{hook}(register)`" in TEXT
    calls = re.findall(r"`(register\(.*?\))`", getattr(hookspecs, hook).__doc__)
    assert calls
    for call in calls:
        assert f"`{call}`" in TEXT
    assert f"def {hook}(register):" in TEXT


def test_every_block_is_of_a_kind_that_is_run():
    assert {language for _, language, _ in BLOCKS} == {"python", "sh", "yaml", "toml"}
    assert all(name for name, language, _ in BLOCKS if language != "sh")
