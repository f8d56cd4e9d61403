"""The pages of docs/plugins/ are complete; test_pages.py runs their commands and files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import ROOT, code_blocks

from zigma_bench.plugins import hookspecs
from zigma_bench.plugins.discovery import HOOKS

PAGES = sorted((ROOT / "docs" / "plugins").glob("*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
PIP = ["--no-build-isolation", "--no-deps", "--no-index", "-q", "--target", "site"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with the files of the page on distributions, and those that its first command writes."""
    folder = tmp_path_factory.mktemp("author")
    for block in code_blocks(ROOT / "docs" / "plugins" / "distributions.md"):
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)
    run(folder, ["zigma_bench", "plugins", "new", "my-order", "--kind", "scan"])
    return folder


def run(desk: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m WORDS` in the folder, which must succeed."""
    environment = {**os.environ, "PYTHONPATH": f"site{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=desk, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("register_")])
def test_every_hook_is_in_the_table_and_in_an_example(hook):
    assert hook in HOOKS
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{hook}(register)` |")]
    calls = re.findall(r"`(register\(.*?\))`", getattr(hookspecs, hook).__doc__)
    assert calls
    for call in calls:
        assert f"`{call}`" in row
    examples = [block.text for page in PAGES for block in code_blocks(page) if block.title]
    assert any(f"def {hook}(register):" in text for text in examples)


def test_every_kind_is_in_the_table_of_the_first_page():
    index = (ROOT / "docs" / "plugins" / "index.md").read_text()
    for kind in HOOKS.values():
        assert f"| `{kind}` |" in index


def test_the_first_scan_has_ten_lines():
    first = next(block for block in code_blocks(ROOT / "docs" / "plugins" / "scans.md") if block.language == "python")
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_plugin_file_of_a_page_is_checked_by_a_command(page):
    blocks = code_blocks(page)
    titles = [Path(block.title) for block in blocks if block.language == "python" and block.title]
    commands = [words for block in blocks if block.language == "sh" for words in block.commands()]
    checked = {words[3].replace("-", "_") for words in commands if words[1:3] == ["plugins", "check"]}
    assert {title.stem for title in titles if title.parts[0].startswith("my_")} <= checked


def test_an_installer_can_read_the_distribution(desk):
    folder = desk / "zigma-bench-columns"
    found = tomllib.loads((folder / "pyproject.toml").read_text())
    assert found["project"]["entry-points"][hookspecs.PROJECT] == {"columns": "columns"}
    assert found["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["columns.py"]
    assert (folder / "columns.py").is_file()


def test_both_distributions_pass_their_tests_install_offline_and_are_found(desk):
    for folder, name in (("zigma-bench-my-order", "my-order"), ("zigma-bench-columns", "columns")):
        run(desk, ["pytest", "-q", "-p", "no:cacheprovider", folder])
        run(desk, ["pip", "install", f"./{folder}", *PIP])
        run(desk, ["zigma_bench", "plugins", "check", name])
    listed = run(desk, ["zigma_bench", "plugins", "list"])
    assert "columns (zigma-bench-columns 0.1.0): scan columns" in listed.stdout
    assert "SET ASIDE" not in listed.stdout
