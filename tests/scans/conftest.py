"""Shared by the tests of drawings: run a command of `scans`, and read the text of a picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture
def call() -> Callable[..., str]:
    """The standard output of a command that must end with `code`, or its error."""

    def run(*words: str, code: int = 0) -> str:
        from zigma_bench.cli.app import app

        done = CliRunner().invoke(app, ["scans", *words])
        if code:
            assert getattr(done.exception, "exit_code", None) == code, done.exception
            return str(done.exception)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    return run


@pytest.fixture
def words_of() -> Callable[[Path], str]:
    """The text lines in an SVG of Matplotlib."""
    return lambda path: " ".join(re.findall(r"<!-- (.*?) -->", path.read_text()))


@pytest.fixture
def frames() -> Callable[[Path], int]:
    """How many frames a GIF has."""

    def count(path: Path) -> int:
        with Image.open(path) as image:
            assert image.format == "GIF"
            return image.n_frames

    return count
