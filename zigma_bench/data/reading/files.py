"""The local files of a data set, and the fingerprint of their names and contents.

This module doesn't import `datasets` or decode images.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.data.reading.folder import LEFT_OUT, check_file, files_below
from zigma_bench.data.reading.hashes import named_hashes
from zigma_bench.errors import UsageError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as in shard-{000..010}.tar
OF_TOTAL = re.compile(r"(?P<before>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<after>\..*)?", re.DOTALL)
NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)", re.DOTALL)


@dataclass(frozen=True)
class Listing:
    """Absolute paths of files in reading order, and the patterns that matched no file."""

    files: tuple[str, ...]
    unmatched: tuple[str, ...] = ()

    def hashes(self) -> list[tuple[str, str]]:
        """(name, sha256) of each file; names are relative to the deepest common folder."""
        return named_hashes(self.files)


NOTHING = Listing(())


def split_list(option: list[str] | str | None) -> tuple[str, ...]:
    """The entries of an option that is a list or a comma-separated text; `{000..010}` expands to eleven entries.

    Raises UsageError for an empty entry, a URL and a range that runs backwards.
    """
    if option is None:
        return ()
    entries = option if isinstance(option, list) else [entry.strip() for entry in option.split(",")]
    for entry in entries:
        if not entry or "://" in entry or "\0" in entry:
            raise UsageError(
                "a data file must be a local path",
                got=entry,
                do="download the file first, or name a data set of the Hub",
            )
    return tuple(one for entry in entries for one in _expand_ranges(entry))


def _expand_ranges(pattern: str) -> Iterator[str]:
    """The patterns for all numbers of a pattern's ranges, zero-padded like the first number."""
    found = RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(last) < int(first):
        raise UsageError("a range of files runs backwards", got=pattern, expected=f"{{{last}..{first}}}")
    for number in range(int(first), int(last) + 1):
        yield from _expand_ranges(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


def missing_shards(files: Iterable[str]) -> list[str]:
    """The missing files of sets with names such as train-00000-of-00003.parquet."""
    files = set(files)
    wanted = set()
    for file in files:
        if found := OF_TOTAL.fullmatch(file):
            before, total, after = found["before"], found["total"], found["after"] or ""
            wanted |= {f"{before}-{number:05}-of-{total}{after}" for number in range(int(total))}
    return sorted(wanted - files)


def missing_numbers(files: Iterable[str]) -> list[str]:
    """The files that are missing in sequences of files whose names differ only in a number.

    A sequence has at least three files. Numbers without leading zeros (part-8, part-10) can also be sizes, dates or
    versions; they count as a sequence only if at least half of its files exist.
    """
    files = set(files)
    rows: dict[tuple[str, str], list[str]] = {}
    for file in files:
        folder, name = os.path.split(file)
        found = None if OF_TOTAL.fullmatch(name) else NUMBERED.fullmatch(name)
        if found:
            rows.setdefault((os.path.join(folder, found["before"]), found["after"]), []).append(found["number"])
    return sorted(
        f"{before}{number}{after}" for (before, after), digits in rows.items() for number in _missing_numbers(digits)
    )


def _missing_numbers(digits: Sequence[str]) -> Iterator[str]:
    """The numbers that are missing in a sequence, with the same zero padding."""
    padded = any(number.startswith("0") and len(number) > 1 for number in digits)
    for width in {len(number) for number in digits} if padded else {0}:
        numbers = {int(number) for number in digits if len(number) == width or not padded}
        span = range(min(numbers), max(numbers) + 1)
        if len(numbers) > 2 and (padded or len(span) <= 2 * len(numbers)):
            yield from (f"{number:0{width}}" for number in span if number not in numbers)


def visible_files_below(folder: Path, suffixes: Iterable[str] | None = None) -> Listing:
    """All files below a folder, sorted, except hidden ones; with `suffixes`, only files with one of them."""
    if not folder.is_dir():
        return NOTHING
    files = files_below(folder)
    return Listing(tuple(file for file in files if suffixes is None or file.lower().endswith(tuple(suffixes))))


def matching_files(patterns: Iterable[str], base: Path) -> Listing:
    """The files of paths and globs below `base`, in the order of the patterns.

    Raises UsageError for a folder, and for a file that is named twice.
    """
    files: list[str] = []
    unmatched = []
    for pattern in patterns:
        full = os.path.normpath(os.path.join(base.absolute(), os.path.expanduser(pattern)))
        found = [full] if os.path.isfile(full) else _glob_files(full)
        if not found and os.path.isdir(full):
            raise UsageError("a data file is a folder", got=pattern, do="name a folder with data_dir")
        if not found:
            unmatched.append(full)
        files += found
    if twice := [name for name, times in _real_paths(files).items() if len(times) > 1]:
        raise UsageError("data_files name a file twice", got=twice[0], do="name each file once")
    return Listing(tuple(files), tuple(unmatched))


def _glob_files(pattern: str) -> list[str]:
    """The files of a glob, sorted, except those in folders such as __MACOSX that the pattern doesn't name.

    Raises NotReady, naming the file, for a broken link, a named pipe, a socket and a device file.
    """
    named = set(Path(pattern).parts)
    found = sorted(glob.glob(_escape_brackets(pattern), recursive=True))
    shown = [file for file in found if not any(p in LEFT_OUT and p not in named for p in Path(file).parent.parts)]
    files = [file for file in shown if not os.path.isdir(file)]
    for file in files:
        check_file(file)
    return files


def _escape_brackets(pattern: str) -> str:
    """The pattern with the names of existing folders escaped, because a name may contain brackets."""
    place, parts = Path(pattern).anchor, list(Path(pattern).parts[1:])
    escaped = place
    while parts and os.path.lexists(os.path.join(place, parts[0])):
        place, escaped = os.path.join(place, parts[0]), os.path.join(escaped, glob.escape(parts[0]))
        del parts[0]
    return os.path.join(escaped, *parts)


def files_in_both(first: Listing, second: Listing) -> list[str]:
    """The files that are in both listings, even under other names or links."""
    ours = _real_paths(first.files)
    return [name for place, names in _real_paths(second.files).items() if place in ours for name in names]


def _real_paths(files: Iterable[str]) -> dict[tuple[int, int], list[str]]:
    """Files by device and inode, which are equal for links to the same file."""
    places: dict[tuple[int, int], list[str]] = {}
    for file in files:
        state = os.stat(file)
        places.setdefault((state.st_dev, state.st_ino), []).append(file)
    return places


def source_fingerprint(source: str, parts: Mapping[str, Any]) -> str:
    """The sha256, as 64 hex digits, of everything that the pixels of a source depend on, such as its files' hashes."""
    text = json.dumps({"source": source, **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
