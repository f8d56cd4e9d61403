"""The sha256 of data files, remembered for as long as a file is the same: path, size, times, inode and device.

The memory is one SQLite file, `hashes.sqlite`, in the folder of ZIGMA_BENCH_CACHE or ~/.cache/zigma-bench. It only
saves time: an entry that is damaged counts as absent, and where nothing can be written every file is read again. As in
Git ("racy Git", Documentation/technical/racy-git.txt) a file that changed just before it was read is not remembered,
since it could change again without another time.
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
from zigma_bench.system.device import cores
from zigma_bench.system.notices import notice

NAME = "hashes.sqlite"
MAX_ENTRIES = 2_000_000  # some 200 bytes each
SETTLED_NS = 2_000_000_000  # how long a file must be unchanged to be remembered: FAT, the coarsest, counts in 2 s
BUFFER_BYTES = 1 << 20
CHUNK_FILES = 64  # that a thread hashes at once
CHUNK_KEYS = 500  # of one query; SQLite takes 999 at least
WAIT_SECONDS = 10  # for another process that writes
SAID_BYTES = 8 << 30  # more than this takes so long that a line says so
TABLE = """CREATE TABLE IF NOT EXISTS files
    (number INTEGER PRIMARY KEY, path BLOB UNIQUE, state TEXT, sha256 BLOB, seal BLOB)"""


class Known(NamedTuple):
    """A file as it was when it was looked at: `path`, with links of its folder resolved, and what `stat` says."""

    file: str
    path: bytes
    state: str
    size: int
    changed_ns: int

    def seal(self, sha256: bytes) -> bytes:
        """A checksum over an entry, so that a damaged one counts as absent."""
        return hashlib.sha256(b"\0".join((self.path, self.state.encode(), sha256))).digest()[:8]


@dataclass
class Rehash:
    """A look at every byte, whatever is remembered; `wrong`: the files whose remembered hash was another one."""

    wrong: list[str] = field(default_factory=list)


_rehash: ContextVar[Rehash | None] = ContextVar("rehash", default=None)


@contextmanager
def rehashing() -> Iterator[Rehash]:
    """Within it every file is read anew, and what is remembered is compared and replaced."""
    found = Rehash()
    token = _rehash.set(found)
    try:
        yield found
    finally:
        _rehash.reset(token)


def hashes_of(files: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The sha256 of each file's content, as hex digits; NotReady for one that can't be read or is no regular file."""
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
    """The error of a file whose content changed while its size, times and inode stayed."""
    return NotReady(
        "the file holds other bytes than when its hash was remembered, though its size, times and inode are the same",
        where=file,
        do="check the disk and where the file came from; the hash is that of the bytes again, and a run trains anew",
    )


def named_hashes(files: Sequence[str | os.PathLike[str]]) -> list[tuple[str, str]]:
    """(name, sha256) of each file, in order; names are relative to the deepest folder that holds them all."""
    paths = [os.path.join(os.getcwd(), file) for file in files]
    if not paths:
        return []
    root = os.path.join(os.path.commonpath({os.path.dirname(path) for path in paths}), "")
    names = [path[len(root) :].replace(os.sep, "/") for path in paths]
    return list(zip(names, hashes_of(paths), strict=True))


def _look(file: str, folders: dict[str, str]) -> Known:
    """A file as it is now; `folders` holds the real paths of folders that were asked for before."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise NotReady("this is no regular file", where=file, do="remove it from the data")
    folder, name = os.path.split(file)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    return Known(file, os.fsencode(os.path.join(folders[folder], name)), _state(found), found.st_size, changed)


def _state(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {found.st_dev}"


def _unreadable(file: str, error: OSError) -> NotReady:
    do = "restore it, make it readable or remove it"
    return NotReady(f"the data file can't be read ({error.strerror})", where=file, do=do)


def _hash_all(files: Sequence[Known]) -> list[tuple[Known, bytes]]:
    """Each file with the sha256 of its content, on all processors: hashlib works without the interpreter's lock."""
    total = sum(file.size for file in files)
    if total > SAID_BYTES:
        notice(f"hashing {len(files):,} data files of {total / 2**30:.0f} GiB; once, unless they change")
    chunks = [files[start : start + CHUNK_FILES] for start in range(0, len(files), CHUNK_FILES)]
    if len(files) < 2 * cores():
        chunks = [[file] for file in files]
    pool = ThreadPoolExecutor(cores())
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
            before = _state(os.fstat(file.fileno()))
            while count := file.readinto(buffer):
                sha256.update(buffer[:count])
            after = _state(os.fstat(file.fileno()))
    except OSError as error:
        raise _unreadable(known.file, error) from error
    if not known.state == before == after:
        raise NotReady(
            "the data file changed while it was read", where=known.file, do="run the same command when it is complete"
        )
    return sha256.digest()


@dataclass(frozen=True)
class Store:
    """The remembered hashes in one SQLite file, which many processes read and write."""

    file: Path

    def read(self, files: Sequence[Known]) -> dict[bytes, bytes]:
        """The sha256 of those files that are remembered as they are now, by `Known.path`."""
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
                              if (value := _checked(by_path[path], entry)) is not None}  # fmt: skip
        except (OSError, sqlite3.Error):  # absent or damaged: `write` makes it anew, and says where it can't
            return found
        return found

    def write(self, entries: Sequence[tuple[Known, bytes]]) -> None:
        """Remember these; a damaged file is replaced, and where that can't be a notice says so."""
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
            notice(f"hashes of data files can't be remembered in {self.file} ({error}); they are computed at each run")

    def _insert(self, entries: Sequence[tuple[Known, bytes]]) -> None:
        """Add entries, and drop the oldest beyond MAX_ENTRIES."""
        rows = [(item.path, item.state, sha256, item.seal(sha256)) for item, sha256 in entries]
        with closing(self._open("rwc")) as base, base:
            base.execute("BEGIN IMMEDIATE")
            base.execute(TABLE)
            base.executemany("INSERT OR REPLACE INTO files (path, state, sha256, seal) VALUES (?, ?, ?, ?)", rows)
            base.execute("DELETE FROM files WHERE number <= (SELECT MAX(number) FROM files) - ?", (MAX_ENTRIES,))

    def _open(self, mode: str) -> sqlite3.Connection:
        place = f"file:{quote(str(self.file.absolute()))}?mode={mode}"
        return sqlite3.connect(place, timeout=WAIT_SECONDS, uri=True, isolation_level=None)


def _checked(known: Known, entry: Sequence[object]) -> bytes | None:
    """The sha256 of an entry, if it is whole and of this state of the file."""
    state, sha256, seal = entry
    whole = state == known.state and isinstance(sha256, bytes) and seal == known.seal(sha256)
    return sha256 if whole and isinstance(sha256, bytes) else None
