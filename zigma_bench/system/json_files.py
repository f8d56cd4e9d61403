"""Reading of the program's own JSON files: regular files of bounded size; an error names the file and its fault."""

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
    """The text of a file.

    Raises FileNotFoundError if the file doesn't exist, and ComparisonRefused if it isn't a readable regular file.
    A named pipe is never opened, because reading it could block forever.
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
        return path.read_bytes().decode(errors="replace")  # invalid UTF-8 is reported when the JSON is parsed
    except FileNotFoundError:
        if path.is_symlink():
            raise ComparisonRefused("the symbolic link is broken", where=str(path), do=do) from None
        raise
    except OSError as error:
        raise ComparisonRefused(f"the file can't be read: {system_fault(error)}", where=str(path), do=do) from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError if the text is not JSON, repeats a key, is nested too deeply or contains an overlong integer.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_int=_bounded_int)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_finite(value: Any) -> None:
    """Raise ValueError if a document contains NaN or infinity, which JSON forbids but Python's parser accepts."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one
        elif isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"it contains {one!r}, which is not a finite number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice!r} is listed twice")
    return found


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it contains an integer of {len(digits):,} digits")
    return int(digits)
