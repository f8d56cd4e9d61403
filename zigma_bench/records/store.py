"""The layout of a results folder, atomic writing, and locks.

    RESULTS/<suite>/<run>/table.json                                 the run and its rows (table_file.py)
                          records.jsonl.gz                           its packed records, if any (packed.py)
    RESULTS/<suite>/<run>/<slug>-<hash>/<stage>-<hash>/spec.json     first: what the stage will compute
                                                       ...           checkpoints, samples, grid
                                                       record.json   last: the stage is done, or failed with a reason

All state is read from files. A record counts if it has the requested identity.

A process that writes a temporary file or folder (`.NAME.*.tmp`) holds a lock on it, and the kernel releases the lock
when the process dies. So any process may remove unlocked temporary files (`clear_temporary`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zigma_bench.errors import Busy, ComparisonRefused, NotReady, system_fault
from zigma_bench.records.packed import read_packed
from zigma_bench.records.record import Record
from zigma_bench.system.json_files import read_text

OWNER = ".owner"  # the file that names the process that holds the lock of its folder
PROGRESS = ".progress"  # the file in which that process says how far it is (progress.py)
LOCK = ".lock"
LOCK_SECONDS = 5  # a worker needs up to this long to exit after its parent was killed
RECORD, SPEC = "record.json", "spec.json"
EMA, SAMPLES = "ema.safetensors", "samples.npy"  # the weights that images are drawn from, and the images
CHECKPOINTS, PARTS, WRITTEN = "checkpoint-*", "part-*", "written.json"  # files of an unfinished stage
LEAST_BYTES = 2**20  # free bytes that are required before anything starts


def write_atomic(path: Path, data: str | bytes, *, lasting: bool = True) -> None:
    """Write a file atomically: a reader, now or after a crash, finds either the whole old file or the whole new one.

    `lasting`: wait until the disk has it, so that it survives a power cut.
    """
    with replace_file(path, lasting=lasting) as temporary, temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replace_file(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """A context that yields an empty temporary file next to `path`; at the end it replaces `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _locked_temporary(path)
    try:
        yield temporary
        if lasting:
            os.fsync(handle)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):  # the error of a full disk names no file
            error.filename, error.filename2 = str(path), None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(handle)  # releases the lock
    if lasting:
        sync_folder(path.parent)


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """The handle of a locked temporary file next to `path`, and its name."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # zero if another process removed it before it was locked
            return handle, Path(name)
        os.close(handle)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A context that yields a temporary folder next to `path`; what is not moved out of it is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _locked_folder(path)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _locked_folder(path: Path) -> tuple[int, Path]:
    """The handle of a locked temporary folder next to `path`, and its name."""
    while True:
        name = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with contextlib.suppress(FileNotFoundError):  # another process removed it before it was locked
            handle = os.open(name, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.isdir(name):
                os.chmod(name, 0o755)
                return handle, Path(name)
            os.close(handle)


def clear_temporary(root: Path) -> None:
    """Remove the temporary files and folders below a folder that no living process is writing."""
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            if name.startswith(".") and name.endswith(".tmp"):
                remove_abandoned(Path(place, name))
        folders[:] = [name for name in folders if not name.endswith(".tmp")]


def clear_stage_leftovers(stage: Path) -> None:
    """Remove the checkpoints and parts of a finished stage."""
    for pattern in (CHECKPOINTS, PARTS, WRITTEN):
        for path in stage.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def clear_leftovers(results: Path) -> None:
    """Remove what killed processes left in a results folder: temporary files, files that finished stages don't need,
    and the owner files of processes that have ended.

    A cell that a process is working on is left alone.
    """
    clear_temporary(results)
    patterns = [f"*/*/*/*/{pattern}" for pattern in (CHECKPOINTS, PARTS, WRITTEN)]
    for stage in {path.parent for pattern in patterns for path in results.glob(pattern)}:
        with contextlib.suppress(ComparisonRefused, Busy):
            record = read_record(stage)
            if record is not None and record.status == "done" and not has_writer(stage.parent):
                with only_writer(stage.parent):
                    clear_stage_leftovers(stage)
    for owner in list(results.rglob(OWNER)):
        with contextlib.suppress(Busy):
            if not has_writer(owner.parent):
                with only_writer(owner.parent):
                    pass  # taking the lock rewrites the owner file, and releasing it removes the file


def remove_abandoned(path: Path) -> None:
    """Remove a temporary file or folder, unless its writer is alive or has just renamed it to its final name."""
    with _locked_if_abandoned(path) as is_abandoned:
        if not is_abandoned:
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_abandoned(path: Path) -> bool:
    """Whether the writer of a temporary file or folder has ended without removing it."""
    with _locked_if_abandoned(path) as found:
        return found


@contextlib.contextmanager
def _locked_if_abandoned(path: Path) -> Iterator[bool]:
    """A context that holds the lock of a temporary file or folder, and yields whether its writer has ended."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # it is gone, or a link or a socket of this name, which this program never writes
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(results: Path, needed_bytes: int = LEAST_BYTES) -> None:
    """Raise NotReady, before any expensive step, if the results folder has no space for so many bytes.

    The bytes are reserved and released again, because a quota may allow less than the disk reports as free.
    """
    do = "choose another folder with --results DIR"
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results) as file:
            _reserve_bytes(file.fileno(), needed_bytes)
    except OSError as error:
        fault = system_fault(error)
        what = f"the results folder can't be written: {fault.what if fault else error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(results).free
            need = f"space for {needed_bytes:,} bytes, about what one cell writes"
            raise NotReady(what, where=str(results), expected=need, got=f"{free:,} bytes free", do=do) from None
        raise NotReady(what, where=str(results), do=do) from None


def _reserve_bytes(handle: int, count: int) -> None:
    """Reserve `count` bytes for an open file; if the file system can't reserve, write zeros."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, count)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS):
                raise
    for start in range(0, count, LEAST_BYTES):
        os.write(handle, bytes(min(LEAST_BYTES, count - start)))


def run_folder(results: Path, suite: str, run: str) -> Path:
    """The folder of a run of a suite."""
    return results / suite / run


def stage_folder(cell_folder: Path, stage: str, identity: str) -> Path:
    """The folder of a stage of a cell."""
    return cell_folder / f"{stage}-{identity[:8]}"


def read_record(folder: Path, identity: str | None = None) -> Record | None:
    """The record of a stage, from its folder or else from the packed records of its run.

    None if there is no record, or one with another identity. BrokenPack if the packed records can't be read.
    """
    path = folder / RECORD
    try:
        text = read_text(path, do="move it away; the stage then runs again")
    except FileNotFoundError:
        record = read_packed(folder.parent.parent).get(place_of(folder))
    else:
        record = Record.from_json(text, where=str(path))
    return record if record is not None and identity in (None, record.identity) else None


def place_of(stage: Path) -> str:
    """The place of a stage in its run, CELL/STAGE, by which its record is packed."""
    return f"{stage.parent.name}/{stage.name}"


def record_folders(run: Path, stage: str = "*") -> list[Path]:
    """The folders of the stages of a run that have a record, packed or not, sorted. `stage`: only those of this one."""
    packed = (run / place for place in read_packed(run).documents)
    found = {path.parent for path in run.glob(f"*/{stage}-*/{RECORD}")}
    return sorted(found | {path for path in packed if path.match(f"{stage}-*")})


def cell_folders(run: Path, digits: str) -> list[Path]:
    """The folders of a run's cells whose hash has these digits, sorted; those of packed cells may not exist."""
    packed = {run / name for name in read_packed(run).cells if name.endswith(f"-{digits}")}
    return sorted(packed | set(run.glob(f"*-{digits}")))


def write_record(folder: Path, record: Record) -> None:
    write_atomic(folder / RECORD, record.to_json())


def write_json(path: Path, data: Any, *, sort_keys: bool = True) -> None:
    write_atomic(path, json.dumps(data, indent=1, sort_keys=sort_keys, allow_nan=False) + "\n")


@contextlib.contextmanager
def only_writer(
    folder: Path, what: str = "this cell", *, wait: bool = False, stopped: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """A context that holds the lock of a folder, such as a cell's, and removes what a killed owner was writing.

    Raises Busy if another process holds the lock; with `wait`, it waits for the lock until `stopped()` is true. The
    kernel releases the lock of a process that dies in any way.
    """
    import filelock

    owner, lock = folder / OWNER, filelock.FileLock(folder / LOCK, timeout=LOCK_SECONDS)
    while not lock.is_locked:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except FileNotFoundError:  # a process that held the lock has removed the folder, since it packed its records
            continue
        except filelock.Timeout:
            if not wait or stopped():
                raise Busy(f"another process is working on {what}", where=str(folder), got=owner_of(folder)) from None
        if lock.is_locked and not (folder / LOCK).exists():
            lock.release()  # of a file that such a process has removed
    try:
        clear_temporary(folder)
        (folder / PROGRESS).unlink(missing_ok=True)  # of a killed owner
        write_atomic(owner, f"{socket.gethostname()} process {os.getpid()}")
        yield
    finally:
        (folder / PROGRESS).unlink(missing_ok=True)  # before the owner file, by which leftovers are found
        owner.unlink(missing_ok=True)
        lock.release()


def has_writer(folder: Path) -> bool:
    """Whether a process holds the lock of a folder now. Works in a folder that can only be read."""
    return _is_locked(folder / LOCK)


@contextlib.contextmanager
def working_on(run: Path) -> Iterator[None]:
    """A context in which this process works on a run; several processes may do so at once (`is_worked_on`)."""
    run.mkdir(parents=True, exist_ok=True)
    handle = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)  # releases the lock


def is_worked_on(run: Path) -> bool:
    """Whether a process works on a run now, even if it holds the lock of no cell at this moment."""
    return _is_locked(run / LOCK, fcntl.LOCK_EX)


def _is_locked(path: Path, kind: int = fcntl.LOCK_SH) -> bool:
    """Whether another process has a lock on a file that prevents one of this kind."""
    mode = os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY  # an exclusive lock on NFS needs a writable file
    try:
        handle = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def owner_of(folder: Path) -> str:
    """The process that holds the lock of a folder, if its owner file names it."""
    try:
        return (folder / OWNER).read_text(errors="replace")[:200]
    except OSError:
        return "another process"
