"""What the path of a `sample` command is: a suite or a model."""

from __future__ import annotations

from pathlib import Path

from zigma_bench.errors import UsageError

CARD = "card.json"  # as in models/official/card.py, which imports torch


def is_model(path: Path) -> bool:
    """True for the folder of an imported model, False for a suite's file; UsageError for anything else."""
    if path.is_dir() and (path / CARD).is_file():
        return True
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        return False
    got = "a folder without one" if path.is_dir() else "a file of another kind" if path.exists() else "nothing there"
    raise UsageError(
        "this is neither a suite nor a model", where=str(path),
        expected=f"a suite's .yaml file, or a folder with {CARD}", got=got,
        do="make a model's folder with zigma-bench import",
    )  # fmt: skip
