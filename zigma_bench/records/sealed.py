"""Check the hash of a file before its content is used, so that no figure is computed from altered bytes.

The hashes are stored in three places: a record has the sha256 of each file that a later stage reads (`file_hashes`); an
unfinished stage has those of its parts in `written.json` (`Parts`); a cache entry has its own in its file name
(`read_entry`, `write_entry`). An altered file is always reported as a notice, and recomputed by the code that needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from zigma_bench.records.store import WRITTEN, write_atomic, write_json
from zigma_bench.system.notices import report_notice

DIGITS = 32  # digits of the sha256 in the file name of a cache entry

State = Literal["whole", "missing", "altered"]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of files in a folder, by name."""
    return {name: file_sha256(folder / name) for name in names}


def state_of(path: Path, sha256: str) -> State:
    """Whether a file is missing, altered since it was written, or whole."""
    try:
        return "whole" if file_sha256(path) == sha256 else "altered"
    except FileNotFoundError:
        return "missing"
    except OSError:  # it is a folder, or the disk can't read it
        return "altered"


def altered_notice(path: Path) -> str:
    """The notice for an altered file."""
    return f"{path}: the file is altered: its sha256 differs from the one at writing; it is computed again"


class Parts:
    """The parts of an unfinished stage, with their hashes, so that a resumed stage uses only intact parts.

    `inputs`: the hashes of the files that the parts are computed from. Parts with other inputs count as missing. A part
    counts as soon as `add` has returned.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, str]) -> None:
        self.folder, self.inputs = folder, dict(inputs)
        self.hashes = _read_parts(folder / WRITTEN, self.inputs)

    def __contains__(self, name: str) -> bool:
        """Whether a part is intact; an altered part is reported."""
        if name not in self.hashes:
            return False
        state = state_of(self.folder / name, self.hashes[name])
        if state == "altered":
            report_notice(altered_notice(self.folder / name))
        return state == "whole"

    def add(self, name: str) -> None:
        """Record the hash of a part after it has been written."""
        self.hashes[name] = file_sha256(self.folder / name)
        write_json(self.folder / WRITTEN, {"inputs": self.inputs, "sha256": self.hashes})


def _read_parts(path: Path, inputs: Mapping[str, str]) -> dict[str, str]:
    try:
        held = json.loads(path.read_bytes())
        same, hashes = held["inputs"] == inputs, dict(held["sha256"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        report_notice(altered_notice(path))
        return {}
    return hashes if same else {}


def read_entry(folder: Path, key: str, suffix: str) -> bytes | None:
    """The bytes of a cache entry, or None if it is missing; an altered entry is reported and removed."""
    for path in sorted(folder.glob(f"{key}-*{suffix}")):
        data = path.read_bytes()
        if path.name == _entry_name(key, data, suffix):
            return data
        report_notice(altered_notice(path))
        path.unlink(missing_ok=True)
    return None


def write_entry(folder: Path, key: str, suffix: str, data: bytes) -> None:
    """Write a cache entry under a key."""
    write_atomic(folder / _entry_name(key, data, suffix), data)


def _entry_name(key: str, data: bytes, suffix: str) -> str:
    return f"{key}-{hashlib.sha256(data).hexdigest()[:DIGITS]}{suffix}"
