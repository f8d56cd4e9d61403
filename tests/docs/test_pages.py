"""Every page of the documentation is right: its files are written and its commands run, from top to bottom."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from filelock import FileLock
from pages import LANGUAGES, ROOT, CodeBlock, code_blocks, documents

TINY = {  # the quickstart with the same cells and commands, in seconds
    "budget: {images: 51200}": "budget: {images: 64}",
    "train: {batch: 64": "train: {batch: 16",
    "warmup_images: 1280": "warmup_images: 16",
    "count: 1000, batch: 250, solver: euler, evaluations: 40": "count: 32, batch: 32, solver: euler, evaluations: 2",
    "repeats: 5, sample_batch: 64": "repeats: 3, sample_batch: 4",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONPATH": f"site:{ROOT}"}
SETUP = {"python3", "pip", "git", "mkdocs", "pytest"}  # checked by test_repository and the tests below, not run here
KEYS_OF_DATA = {"transforms", "latents", "text"}


def run(desk: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=desk, capture_output=True, text=True, env=ENVIRONMENT)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A clone of the repository in which the quickstart has been run, shared by all processes of pytest."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "clone"
    with FileLock(shared / "clone.lock"):
        if not (folder / "ready").exists():
            _make_clone(folder)
            (folder / "ready").touch()
    return folder


def _make_clone(folder: Path) -> None:
    shutil.copytree(ROOT / "suites", folder / "suites")
    shutil.copytree(ROOT / "plugins", folder / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / "suites" / "quickstart.yaml"
    text = path.read_text()
    for old, new in TINY.items():
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    _make_files(folder)
    done = run(folder, [sys.executable, "-m", "zigma_bench", "run", "suites/quickstart.yaml"])
    assert done.returncode == 0, done.stderr


def _make_files(folder: Path) -> None:
    """What the pages name and a reader has: photographs in a folder for each class, and a released checkpoint."""
    import numpy as np
    import torch
    from PIL import Image

    from zigma_bench.backbones.official.dit import build_dit

    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(24):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{index}.png")
    config = {"input_size": 4, "hidden_size": 32, "depth": 1, "num_heads": 4}
    weights = {item.name: torch.zeros(item.shape) for item in build_dit(config, backend="torch").layout}
    torch.save(weights, folder / "DiT-XL-2-256x256.pt")


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_runs_from_top_to_bottom(page, template, tmp_path):
    desk = tmp_path / "desk"
    shutil.copytree(template, desk)
    for block in code_blocks(page):
        assert block.language in LANGUAGES, block.text
        if block.title:
            (desk / block.title).parent.mkdir(parents=True, exist_ok=True)
            (desk / block.title).write_text(block.text)
        elif block.language == "sh":
            for words in block.commands():
                _check_command(desk, words, block)
        elif block.language == "python":
            done = run(desk, [sys.executable, "-c", block.text])
            assert done.returncode == 0, f"{block.text}\n{done.stderr}"
        elif block.language == "yaml":
            jsonschema.validate(_suite_with(yaml.safe_load(block.text)), _schema())


def _check_command(desk: Path, words: list[str], block: CodeBlock) -> None:
    program, *rest = words
    if program in SETUP:
        return
    assert program == "zigma-bench", words
    if block.not_run:
        _check_options(rest)
        return
    if "import" in rest:
        rest += [w for key in ("input_size=4", "hidden_size=32", "depth=1", "num_heads=4") for w in ("--set", key)]
    done = run(desk, [sys.executable, "-m", "zigma_bench", *rest])
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    assert done.stdout or "wrote" in done.stderr, words


def _check_options(words: list[str]) -> None:
    """Each option of a command that isn't run is in the help of the command."""
    names = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
    help_text = _help(names[0]) if _help(names[0]) and "COMMAND" not in _help(names[0]) else _help(*names[:2])
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word.partition('=')[0])}\b", help_text), f"{words}: {word}"


@cache
def _help(*names: str) -> str:
    done = run(ROOT, [sys.executable, "-m", "zigma_bench", *names, "--help"])
    assert done.returncode == 0, f"{names}: {done.stderr}"
    return done.stdout


@cache
def _schema() -> dict[str, object]:
    schema: dict[str, object] = json.loads(run(ROOT, [sys.executable, "-m", "zigma_bench", "schema"]).stdout)
    return schema


def _suite_with(part: dict[str, object]) -> dict[str, object]:
    """A whole suite with a part of it replaced; keys of `data` are put into its data."""
    suite: dict[str, object] = yaml.safe_load((ROOT / "suites" / "quickstart.yaml").read_text())
    if part.keys() <= KEYS_OF_DATA:
        part = {"data": {"name": "digits", **part}}
    return suite | part


def test_the_extras_that_pages_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in documents():
        for named in re.findall(r"(?:-e ['\"]?\.|zigma-bench)\[([\w,]+)\]", page.read_text()):
            assert set(named.split(",")) <= set(extras), f"{page.name}: {named}"
