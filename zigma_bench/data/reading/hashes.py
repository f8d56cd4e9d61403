"""The sha256 of data files, cached while path, size, times, inode and device of a file stay the same.

The cache is one SQLite file, `hashes.sqlite`, in ZIGMA_BENCH_CACHE or ~/.cache/zigma-bench. It only saves time: a
damaged entry counts as missing, and if the cache can't be written, all files are read in every run. As in Git ("racy
Git", Documentation/technical/racy-git.txt), a file that changed just before it was read is not cached, because it could
change again with the same time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from zigma_bench.errors import NotReady
from zigma_bench.pretrained.text_encoders import cache_root
from zigma_bench.system.device import core_count
from zigma_bench.system.notices import report_notice

NAME = "hashes.sqlite"
MAX_ENTRIES = 2_000_000  # some 200 bytes each
SETTLED_NS = 2_000_000_000  # age of the last change for caching a file; times on FAT are the coarsest, 2 s
BUFFER_BYTES = 1 << 20
CHUNK_FILES = 64  # files per task of a thread
CHUNK_KEYS = 500  # keys per query; SQLite allows at least 999
WAIT_SECONDS = 10  # for another writing process
NOTICE_BYTES = 8 << 30  # hashing more than this takes long, so a notice says so
TABLE = """CREATE TABLE IF NOT EXISTS files
    (number INTEGER PRIMARY KEY, path BLOB UNIQUE, state TEXT, sha256 BLOB, seal BLOB)"""


class Known(NamedTuple):
    """The state of a file: `path`, in which the folder's links are resolved, and the results of `stat`."""

    file: str
    path: bytes
    state: str
    size: int
    changed_ns: int

    def seal(self, sha256: bytes) -> bytes:
        """A checksum of an entry, to detect damaged ones."""
        return hashlib.sha256(b"\0".join((self.path, self.state.encode(), sha256))).digest()[:8]


@dataclass
class Rehash:
    """A check that ignores the cache and reads every file; `wrong` is the files whose cached hash was wrong."""

    wrong: list[str] = field(default_factory=list)


_rehash: ContextVar[Rehash | None] = ContextVar("rehash", default=None)


@contextmanager
def always_rehash() -> Iterator[Rehash]:
    """A context in which every file is read again, and its cached hash is compared and replaced."""
    found = Rehash()
    token = _rehash.set(found)
    try:
        yield found
    finally:
        _rehash.reset(token)


def hashes_of(files: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The sha256 of each file, as hex digits; NotReady for one that can't be read or isn't a regular file."""
    folders: dict[str, str] = {}
    known = [_look(os.fspath(file), folders) for file in files]
    store, rehash, started = Store(cache_root() / NAME), _rehash.get(), time.time_ns()
    found = store.read(known)
    due = known if rehash is not None else [item for item in known if item.path not in found]
    fresh = _hash_all(due)
    if rehash is not None:
        rehash.wrong += [item.file for item, sha256 in fresh if found.get(item.path, sha256) != sha256]
    settled = started - SETTLED_NS
    store.write([(item, value) for item, value in fresh if found.get(item.path) != value and item.changed_ns < settled])
    found |= {item.path: sha256 for item, sha256 in fresh}
    return [found[item.path].hex() for item in known]


def changed_unseen(file: str) -> NotReady:
    """The error for a file whose content changed although its size, times and inode are the same."""
    return NotReady(
        "the content of the file changed since its hash was cached, although its size, times and inode are the same",
        where=file,
        do="check the disk and the origin of the file; the cached hash is correct again, and a run trains again",
    )


def named_hashes(files: Sequence[str | os.PathLike[str]]) -> list[tuple[str, str]]:
    """(name, sha256) of each file, in order; names are relative to the deepest common folder."""
    paths = [os.path.join(os.getcwd(), file) for file in files]
    if not paths:
        return []
    root = os.path.join(os.path.commonpath({os.path.dirname(path) for path in paths}), "")
    names = [path[len(root) :].replace(os.sep, "/") for path in paths]
    return list(zip(names, hashes_of(paths), strict=True))


def _look(file: str, folders: dict[str, str]) -> Known:
    """The current state of a file; `folders` caches the real paths of folders."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise _unreadable_error(file, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise NotReady("not a regular file", where=file, do="remove it from the data")
    folder, name = os.path.split(file)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    return Known(file, os.fsencode(os.path.join(folders[folder], name)), _file_state(found), found.st_size, changed)


def _file_state(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {found.st_dev}"


def _unreadable_error(file: str, error: OSError) -> NotReady:
    do = "restore it, make it readable or remove it"
    return NotReady(f"the data file can't be read ({error.strerror})", where=file, do=do)


def _hash_all(files: Sequence[Known]) -> list[tuple[Known, bytes]]:
    """Each file with its sha256, computed in one thread per core: hashlib releases the GIL."""
    total = sum(file.size for file in files)
    if total > NOTICE_BYTES:
        report_notice(f"hashing {len(files):,} data files of {total / 2**30:.0f} GiB (only once, unless they change)")
    chunks = [files[start : start + CHUNK_FILES] for start in range(0, len(files), CHUNK_FILES)]
    if len(files) < 2 * core_count():
        chunks = [[file] for file in files]
    pool = ThreadPoolExecutor(core_count())
    try:
        hashed = [value for values in pool.map(_hash_some, chunks) for value in values]
    finally:
        pool.shutdown(cancel_futures=True)
    return list(zip(files, hashed, strict=True))


def _hash_some(files: Iterable[Known]) -> list[bytes]:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    return [_hash(file, buffer) for file in files]


def _hash(known: Known, buffer: memoryview) -> bytes:
    """The sha256 of one file; NotReady if it changes while it is read."""
    sha256 = hashlib.sha256()
    try:
        with open(known.file, "rb", buffering=0) as file:
            before = _file_state(os.fstat(file.fileno()))
            while count := file.readinto(buffer):
                sha256.update(buffer[:count])
            after = _file_state(os.fstat(file.fileno()))
    except OSError as error:
        raise _unreadable_error(known.file, error) from error
    if not known.state == before == after:
        raise NotReady(
            "the data file changed while it was read", where=known.file, do="run again when the file is complete"
        )
    return sha256.digest()


@dataclass(frozen=True)
class Store:
    """The cached hashes in one SQLite file, which several processes can use at once."""

    file: Path

    def read(self, files: Sequence[Known]) -> dict[bytes, bytes]:
        """The cached sha256 of unchanged files, by `Known.path`."""
        found: dict[bytes, bytes] = {}
        by_path = {item.path: item for item in files}
        paths = list(by_path)
        try:
            with closing(self._open("ro")) as base:
                for start in range(0, len(paths), CHUNK_KEYS):
                    some = paths[start : start + CHUNK_KEYS]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT path, state, sha256, seal FROM files WHERE path IN ({marks})"
                    found |= {path: value for path, *entry in base.execute(query, some)
                              if (value := _checked_hash(by_path[path], entry)) is not None}  # fmt: skip
        except (OSError, sqlite3.Error):  # missing or damaged: `write` creates the file again, or reports why it can't
            return found
        return found

    def write(self, entries: Sequence[tuple[Known, bytes]]) -> None:
        """Cache these hashes. A damaged file is replaced; if the file can't be written, a notice says so."""
        if not entries:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._insert(entries)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # damaged
                self.file.unlink(missing_ok=True)
                self._insert(entries)
        except (OSError, sqlite3.Error) as error:
            report_notice(
                f"hashes of data files can't be cached in {self.file} ({error}); every run computes them again"
            )

    def _insert(self, entries: Sequence[tuple[Known, bytes]]) -> None:
        """Add entries, and delete the oldest beyond MAX_ENTRIES."""
        rows = [(item.path, item.state, sha256, item.seal(sha256)) for item, sha256 in entries]
        with closing(self._open("rwc")) as base, base:
            base.execute("BEGIN IMMEDIATE")
            base.execute(TABLE)
            base.executemany("INSERT OR REPLACE INTO files (path, state, sha256, seal) VALUES (?, ?, ?, ?)", rows)
            base.execute("DELETE FROM files WHERE number <= (SELECT MAX(number) FROM files) - ?", (MAX_ENTRIES,))

    def _open(self, mode: str) -> sqlite3.Connection:
        place = f"file:{quote(str(self.file.absolute()))}?mode={mode}"
        return sqlite3.connect(place, timeout=WAIT_SECONDS, uri=True, isolation_level=None)


def _checked_hash(known: Known, entry: Sequence[object]) -> bytes | None:
    """The sha256 of an entry, or None if the entry is damaged or the file has changed."""
    state, sha256, seal = entry
    whole = state == known.state and isinstance(sha256, bytes) and seal == known.seal(sha256)
    return sha256 if whole and isinstance(sha256, bytes) else None
