"""List the names that a pickle imports, from its opcodes, without loading or running it."""

from __future__ import annotations

import contextlib
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO

OF_TENSORS = re.compile(r"collections\.OrderedDict|torch\._utils\._rebuild\w+|torch\.\w+")
LEGACY = 5  # pickles in a file of PyTorch's old format: magic number, version, system, content, storage keys
STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")


def foreign_names(path: Path) -> list[str]:
    """The names that the pickles of a file import besides tensors, up to the end or the first damage."""
    names: set[str] = set()
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # damaged files are reported elsewhere
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                for _ in range(LEGACY):
                    _read_pickle(file, names)
        else:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.namelist():
                    if entry.endswith("data.pkl"):
                        with archive.open(entry) as file:
                            _read_pickle(file, names)
    return sorted(name for name in names if not OF_TENSORS.fullmatch(name))


def _read_pickle(file: IO[bytes], names: set[str]) -> None:
    """Collect the imported names of a pickle. Since protocol 4, a name is two strings on the stack or from the memo."""
    last: str | None = None
    pushed: list[str | None] = []
    memo: list[str | None] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            names.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(str(part) for part in pushed[-2:]))
        elif opcode.name == "MEMOIZE":
            memo.append(last)
            continue
        last = argument if opcode.name in STRINGS else None
        if opcode.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int) and argument < len(memo):
            last = memo[argument]
        if last is not None:
            pushed.append(last)
