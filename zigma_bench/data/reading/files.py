"""Which local files a data source is made of, and the fingerprint of their names and contents.

Nothing here imports `datasets` or decodes an image.
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

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # of a pattern, as in shard-{000..010}.tar
OF_TOTAL = re.compile(r"(?P<before>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<after>\..*)?", re.DOTALL)
NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)", re.DOTALL)


@dataclass(frozen=True)
class Listing:
    """Files in the order they are read, as absolute paths, and the patterns that matched none."""

    files: tuple[str, ...]
    unmatched: tuple[str, ...] = ()

    def hashes(self) -> list[tuple[str, str]]:
        """(name, sha256) of each file; names are relative to the deepest folder that holds them all."""
        return named_hashes(self.files)


NOTHING = Listing(())


def split_list(given: list[str] | str | None) -> tuple[str, ...]:
    """The entries of an option that is a list, or one text separated by commas; `{000..010}` is eleven entries."""
    if given is None:
        return ()
    entries = given if isinstance(given, list) else [entry.strip() for entry in given.split(",")]
    for entry in entries:
        if not entry or "://" in entry or "\0" in entry:
            raise UsageError(
                "a data file must be a local path",
                got=entry,
                do="download the file first, or name a data set of the Hub",
            )
    return tuple(one for entry in entries for one in _spelt_out(entry))


def _spelt_out(pattern: str) -> Iterator[str]:
    """A pattern for each number of its ranges, zeros in front as in the first."""
    found = RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(last) < int(first):
        raise UsageError("a range of files runs backwards", got=pattern, expected=f"{{{last}..{first}}}")
    for number in range(int(first), int(last) + 1):
        yield from _spelt_out(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


def missing_shards(files: Iterable[str]) -> list[str]:
    """The files that names such as train-00000-of-00003.parquet say there must be, and that are not among them."""
    files = set(files)
    wanted = set()
    for file in files:
        if found := OF_TOTAL.fullmatch(file):
            before, total, after = found["before"], found["total"], found["after"] or ""
            wanted |= {f"{before}-{number:05}-of-{total}{after}" for number in range(int(total))}
    return sorted(wanted - files)


def gaps(files: Iterable[str]) -> list[str]:
    """The files that are missing between the first and the last of those whose names differ only in their number.

    Three of them at least: two numbers make no sequence. Numbers without zeros in front (part-8, part-10) may be sizes,
    dates or versions as well: they are a sequence where no more are missing than are there.
    """
    files = set(files)
    rows: dict[tuple[str, str], list[str]] = {}
    for file in files:
        folder, name = os.path.split(file)
        found = None if OF_TOTAL.fullmatch(name) else NUMBERED.fullmatch(name)
        if found:
            rows.setdefault((os.path.join(folder, found["before"]), found["after"]), []).append(found["number"])
    return sorted(f"{before}{number}{after}" for (before, after), given in rows.items() for number in _between(given))


def _between(given: Sequence[str]) -> Iterator[str]:
    """The numbers that lack among some, as they are written."""
    padded = any(number.startswith("0") and len(number) > 1 for number in given)
    for width in {len(number) for number in given} if padded else {0}:
        numbers = {int(number) for number in given if len(number) == width or not padded}
        span = range(min(numbers), max(numbers) + 1)
        if len(numbers) > 2 and (padded or len(span) <= 2 * len(numbers)):
            yield from (f"{number:0{width}}" for number in span if number not in numbers)


def below(folder: Path, suffixes: Iterable[str] | None = None) -> Listing:
    """Every file below a folder, by name, without hidden ones; only those with one of the suffixes, if given."""
    if not folder.is_dir():
        return NOTHING
    files = files_below(folder)
    return Listing(tuple(file for file in files if suffixes is None or file.lower().endswith(tuple(suffixes))))


def matching(patterns: Iterable[str], base: Path) -> Listing:
    """The files of paths and globs below `base`, in the order of the patterns; naming a file twice is refused."""
    files: list[str] = []
    unmatched = []
    for pattern in patterns:
        full = os.path.normpath(os.path.join(base.absolute(), os.path.expanduser(pattern)))
        found = [full] if os.path.isfile(full) else _globbed(full)
        if not found and os.path.isdir(full):
            raise UsageError("a data file is a folder", got=pattern, do="give a folder as data_dir")
        if not found:
            unmatched.append(full)
        files += found
    if twice := [name for name, times in _real_paths(files).items() if len(times) > 1]:
        raise UsageError("data_files name a file twice", got=twice[0], do="name each file once")
    return Listing(tuple(files), tuple(unmatched))


def _globbed(pattern: str) -> list[str]:
    """The files of a glob, sorted, without folders such as __MACOSX that the pattern doesn't name.

    NotReady, which names it, for a link that leads nowhere and for a named pipe, socket or device file among them.
    """
    named = set(Path(pattern).parts)
    found = sorted(glob.glob(_escaped(pattern), recursive=True))
    shown = [file for file in found if not any(p in LEFT_OUT and p not in named for p in Path(file).parent.parts)]
    files = [file for file in shown if not os.path.isdir(file)]
    for file in files:
        check_file(file)
    return files


def _escaped(pattern: str) -> str:
    """The pattern, those of its folders taken literally that are there by that name, brackets and all."""
    place, parts = Path(pattern).anchor, list(Path(pattern).parts[1:])
    escaped = place
    while parts and os.path.lexists(os.path.join(place, parts[0])):
        place, escaped = os.path.join(place, parts[0]), os.path.join(escaped, glob.escape(parts[0]))
        del parts[0]
    return os.path.join(escaped, *parts)


def shared(first: Listing, second: Listing) -> list[str]:
    """The files that stand in both listings, under whatever name or link."""
    ours = _real_paths(first.files)
    return [name for place, names in _real_paths(second.files).items() if place in ours for name in names]


def _real_paths(files: Iterable[str]) -> dict[tuple[int, int], list[str]]:
    """Files by device and inode: links to one file fall together."""
    places: dict[tuple[int, int], list[str]] = {}
    for file in files:
        state = os.stat(file)
        places.setdefault((state.st_dev, state.st_ino), []).append(file)
    return places


def fingerprint(source: str, parts: Mapping[str, Any]) -> str:
    """The sha256 of what determines the pixels of a source, the hashes of its files among it, as 64 hex digits."""
    text = json.dumps({"source": source, **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
