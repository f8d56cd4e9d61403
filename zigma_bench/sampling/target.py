"""Find out whether the path of a `sample` command is a suite, a model or a trained cell."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from zigma_bench.errors import UsageError
from zigma_bench.records.store import SPEC

CARD = "card.json"  # the same as in backbones/official/card.py, which imports torch


def kind_of(path: Path) -> Literal["suite", "model", "cell"]:
    """The kind of a path: the folder of an imported model or a trained cell, or a suite file. UsageError otherwise."""
    if path.is_dir() and (path / CARD).is_file():
        return "model"
    if path.is_dir() and any(path.glob(f"train-*/{SPEC}")):
        return "cell"
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        return "suite"
    got = (
        "a folder without these files"
        if path.is_dir()
        else "a file of another kind"
        if path.exists()
        else "no such file or folder"
    )
    raise UsageError(
        "this is neither a suite nor a model", where=str(path),
        expected=f"a suite's .yaml file, a folder with {CARD}, or a trained cell's folder among the results", got=got,
        do="create a model folder with zigma-bench import",
    )  # fmt: skip
