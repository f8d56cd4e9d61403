"""What lies where under a results folder, written atomically, and what is done.

    RESULTS/<suite>/<slug>-<hash>/<stage>-<hash>/spec.json     first: what the stage is about to do
                                                 ...           checkpoints, samples, grid
                                                 record.json   last: the stage is done (or failed, with the reason)
    RESULTS/<suite>/table.json                                 which records the last run of the suite stands on

State is read from files alone. A record counts when its identity is the one that was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused, NotReady, system_fault
from zigma_bench.json_files import check_finite, parse_json, read_text
from zigma_bench.record import Record

LOCK_SECONDS = 5  # long enough for a worker whose parent was killed to end itself
RECORD, SPEC, TABLE = "record.json", "spec.json", "table.json"
TABLE_FORMAT = 1
LEAST_BYTES = 2**20  # that must fit before anything begins


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader, now or after a crash, finds the old one whole or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):  # a full disk names no file
            error.filename, error.filename2 = str(path), None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(results: Path, needed_bytes: int = LEAST_BYTES) -> None:
    """Stop with code 3 before the expensive step where the results folder can't take so many bytes.

    They are reserved and let go again: what a disk reports as free may be beyond a quota or a limit.
    """
    do = "take another one with --results DIR"
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results) as file:
            _reserve(file.fileno(), needed_bytes)
    except OSError as error:
        fault = system_fault(error)
        what = f"the results folder can't be written: {fault.what if fault else error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(results).free
            need = f"space for {needed_bytes:,} bytes, about what one cell writes"
            raise NotReady(what, where=str(results), expected=need, got=f"{free:,} bytes free", do=do) from None
        raise NotReady(what, where=str(results), do=do) from None


def _reserve(handle: int, count: int) -> None:
    """Take `count` bytes on the disk of an open file, by writing where the file system knows no other way."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, count)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS):
                raise
    for start in range(0, count, LEAST_BYTES):
        os.write(handle, bytes(min(LEAST_BYTES, count - start)))


def suite_folder(results: Path, suite: str, *, smoke: bool) -> Path:
    return results / (f"{suite}-smoke" if smoke else suite)


def stage_folder(cell_folder: Path, stage: str, identity: str) -> Path:
    return cell_folder / f"{stage}-{identity[:8]}"


def read_record(folder: Path, identity: str | None = None) -> Record | None:
    """The record of a stage, or None where there is none of this identity."""
    path = folder / RECORD
    try:
        text = read_text(path, do="move it away; the stage is then done again")
    except FileNotFoundError:
        return None
    record = Record.from_json(text, where=str(path))
    return record if identity is None or record.identity == identity else None


def read_table_file(path: Path) -> dict[str, Any] | None:
    """What a suite's table stands on, or None where there is none; a newer format is refused."""
    try:
        data = parse_json(read_text(path))
        check_finite(data)
        version = data["format"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        what = f"this is no table of zigma-bench ({error!r})"
        raise ComparisonRefused(what, where=str(path), do="move the file away") from None
    if version != TABLE_FORMAT:
        raise ComparisonRefused(
            "the table has a format that this version can't read",
            where=str(path),
            expected=f"format {TABLE_FORMAT}",
            got=version,
            do="update zigma-bench, or move the file away",
        )
    return dict(data)


def write_record(folder: Path, record: Record) -> None:
    write_atomic(folder / RECORD, record.to_json())


def write_json(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")


@contextlib.contextmanager
def only_writer(folder: Path, what: str = "this cell") -> Iterator[None]:
    """Hold the lock of a cell, or of what else a folder holds, and clear away what a killed owner was writing.

    The kernel lets go of the lock when the owner dies, whatever the owner was doing.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / ".owner"
    lock = filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout:
        name = owner.read_text() if owner.exists() else "another process"
        raise NotReady(f"another process is at work on {what}", where=str(folder), got=name, do="wait for it") from None
    try:
        for leftover in sorted(folder.rglob(".*.tmp")):  # a folder before its files
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        write_atomic(owner, f"{socket.gethostname()} process {os.getpid()}")
        yield
    finally:
        lock.release()
