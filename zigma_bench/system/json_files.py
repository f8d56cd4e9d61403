"""JSON files of this program read back: regular files of bounded size; each fault is one error that names the file."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused, system_fault

MAX_BYTES = 64 * 2**20
MAX_DIGITS = 100


def read_text(path: Path, *, do: str = "move it away") -> str:
    """The text of a file; FileNotFoundError where there is none, ComparisonRefused for what is no readable file.

    A named pipe is refused and not opened, since nothing may ever come out of it.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise ComparisonRefused(f"this is {kind}", where=str(path), expected="a JSON file", do=do)
        if found.st_size > MAX_BYTES:
            raise ComparisonRefused(
                "the file is too large", where=str(path), expected=f"at most {MAX_BYTES:,} bytes", got=found.st_size
            )
        return path.read_bytes().decode(errors="replace")  # what is no text is no JSON either, and is named later
    except FileNotFoundError:
        if path.is_symlink():
            raise ComparisonRefused("the link leads nowhere", where=str(path), do=do) from None
        raise
    except OSError as error:
        raise ComparisonRefused(f"the file can't be read: {system_fault(error)}", where=str(path), do=do) from None


def parse_json(text: str) -> Any:
    """A JSON document; ValueError for what is none, has a key twice, is nested too deeply or holds endless numbers."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_finite(value: Any) -> None:
    """ValueError for NaN or infinity anywhere in a document, which Python reads and JSON does not have."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one
        elif isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"it holds {one!r}, which is no finite number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice!r} stands twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)
