"""Files whose content is checked before it is used: no figure is computed from altered bytes.

A record holds the sha256 of each file that a later stage reads (`hashes_of`). A stage that is not done yet holds those
of its parts in `written.json` (`Parts`). An entry of a cache holds its own in its name (`read_entry`, `write_entry`).
A file that is present and altered is always reported (`notices.notice`), and made again by whoever needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from zigma_bench.records.store import WRITTEN, write_atomic, write_json
from zigma_bench.system.notices import report_notice

DIGITS = 32  # of a sha256 in the name of a cache's entry

State = Literal["whole", "missing", "altered"]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of files in a folder, by name."""
    return {name: file_sha256(folder / name) for name in names}


def state_of(path: Path, sha256: str) -> State:
    """Whether a file is there with the content that it was written with."""
    try:
        return "whole" if file_sha256(path) == sha256 else "altered"
    except FileNotFoundError:
        return "missing"
    except OSError:  # a folder in its place, or a disk that can't read it
        return "altered"


def altered_notice(path: Path) -> str:
    """The sentence that reports an altered file."""
    return f"{path}: the file is altered: it does not have the sha256 that it was written with; it is made again"


class Parts:
    """The parts of a stage that is not done yet, with their hashes, so that a resume uses only what is whole.

    `inputs`: what the parts are made from. Parts that were made from anything else count as missing. A part counts once
    `add` has returned.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, str]) -> None:
        self.folder, self.inputs = folder, dict(inputs)
        self.hashes = _read_parts(folder / WRITTEN, self.inputs)

    def __contains__(self, name: str) -> bool:
        """Whether a part is whole. One that is altered is reported."""
        if name not in self.hashes:
            return False
        state = state_of(self.folder / name, self.hashes[name])
        if state == "altered":
            report_notice(altered_notice(self.folder / name))
        return state == "whole"

    def add(self, name: str) -> None:
        """Note a part that has been written."""
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
    """An entry of a cache, or None where there is none; one that is altered is reported and removed."""
    for path in sorted(folder.glob(f"{key}-*{suffix}")):
        data = path.read_bytes()
        if path.name == _entry_name(key, data, suffix):
            return data
        report_notice(altered_notice(path))
        path.unlink(missing_ok=True)
    return None


def write_entry(folder: Path, key: str, suffix: str, data: bytes) -> None:
    """Put an entry into a cache under a key."""
    write_atomic(folder / _entry_name(key, data, suffix), data)


def _entry_name(key: str, data: bytes, suffix: str) -> str:
    return f"{key}-{hashlib.sha256(data).hexdigest()[:DIGITS]}{suffix}"
