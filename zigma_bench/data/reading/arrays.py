"""Stores of named arrays in shards on disk: checksummed, resumable, and read by row through memory maps.

    FOLDER/  store.json            format, identity, fields, number of rows, rows per shard
             0000012.latents.npy   the rows of a shard, one file per field
             0000012.json          written last: the sha256 of each file. A shard without it counts as missing

All rows of a field have the same shape, so texts of different lengths are padded, with their lengths in another field.
A kill loses at most the work on one shard. This module is independent of the meaning of the arrays, and of torch.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.records.store import write_atomic, write_json
from zigma_bench.system.notices import report_notice

FORMAT = 1
STORE = "store.json"
MISSING = "is missing"
FEWEST_ROWS, MOST_SHARDS = 256, 128  # per shard; per store, because an open shard needs one file handle per field
THREADS = 8  # hashing releases the GIL
DTYPES = ("float16", "float32", "float64", "uint8", "int32", "int64", "bool")

Array = npt.NDArray[Any]
Indices = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True)
class ArrayField:
    """One array of a store: a dtype of DTYPES and the shape of a row, () for a number."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.dtype in DTYPES, self.dtype


@dataclass(frozen=True)
class ArrayLayout:
    """The layout of a store: `rows` rows in shards of `shard_rows`. `identity` is everything that its content depends
    on, as JSON."""

    identity: Mapping[str, Any]
    fields: Mapping[str, ArrayField]
    rows: int
    shard_rows: int

    @classmethod
    def of(cls, identity: Mapping[str, Any], fields: Mapping[str, ArrayField], rows: int) -> ArrayLayout:
        """A layout with a suitable number of rows per shard."""
        return cls(identity, fields, rows, max(FEWEST_ROWS, -(-rows // MOST_SHARDS)))

    @property
    def shards(self) -> list[range]:
        """The rows of each shard."""
        return [range(i, min(i + self.shard_rows, self.rows)) for i in range(0, self.rows, self.shard_rows)]

    def to_json(self) -> dict[str, Any]:
        fields = {name: {"dtype": field.dtype, "shape": list(field.shape)} for name, field in self.fields.items()}
        facts = {"format": FORMAT, "identity": dict(self.identity), "fields": fields}
        whole = {**facts, "rows": self.rows, "shard_rows": self.shard_rows}
        return json.loads(json.dumps(whole))  # type: ignore[no-any-return]  # turn tuples into lists, as json.loads returns them


@dataclass(frozen=True)
class Fault:
    """A missing or broken shard, with the reason."""

    shard: int
    reason: str

    @property
    def absent(self) -> bool:
        """Whether the shard is missing, because it was never completed; else it is broken."""
        return self.reason == MISSING


@dataclass(frozen=True)
class ArrayWriter:
    """A writer of the shards of a store; the caller must hold the lock of its folder (`store.only_writer`)."""

    folder: Path
    layout: ArrayLayout

    def due(self) -> list[int]:
        """The missing and broken shards, after comparing all checksums; broken shards are reported as notices."""
        found = broken_shards(self.folder, self.layout)
        for fault in found:
            if not fault.absent:
                report_notice(f"{self.folder}: shard {fault.shard} {fault.reason}; it is written again")
        return [fault.shard for fault in found]

    def write(self, shard: int, arrays: Mapping[str, Array]) -> None:
        """Write a shard from an array [rows of the shard, *shape] per field; after a kill it is complete or missing.

        Raises NotReady if the disk is full or can't be written.
        """
        mark = _shard_mark(self.folder, shard)
        mark.unlink(missing_ok=True)  # a broken shard counts as missing while it is written again
        assert arrays.keys() == self.layout.fields.keys(), (arrays.keys(), self.layout.fields.keys())
        hashes = {}
        try:
            for name, field in self.layout.fields.items():
                data = _encode_array(arrays[name], field, len(self.layout.shards[shard]), name)
                write_atomic(_field_file(self.folder, shard, name), data)
                hashes[name] = hashlib.sha256(data).hexdigest()
            write_json(mark, {"sha256": hashes})
        except OSError as error:
            raise NotReady(
                f"shard {shard} can't be written: {error.strerror}", where=str(self.folder),
                do="free some space, and run the same command again: it resumes the work",
            ) from None  # fmt: skip


def open_writer(folder: Path, layout: ArrayLayout) -> ArrayWriter:
    """Create a store or resume it; NotReady for a folder with another store."""
    if (folder / STORE).exists():
        _check_same(folder, layout.to_json())
    else:
        write_json(folder / STORE, layout.to_json())
    return ArrayWriter(folder, layout)


class ArrayStore:
    """A complete store, read by row. Its memory maps are opened once, and the system caches their pages."""

    def __init__(self, folder: Path, layout: ArrayLayout) -> None:
        self.folder, self.layout = folder, layout

    def __len__(self) -> int:
        return self.layout.rows

    def take(self, name: str, indices: Indices) -> Array:
        """The rows `indices` of a field, [n, *shape], copied into memory."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"rows from {wanted.min()} to {wanted.max()} of {len(self)}")
        maps, field = self._maps[name], self.layout.fields[name]
        shards, rows = np.divmod(wanted, self.layout.shard_rows)
        found: Array = np.empty((len(wanted), *field.shape), dtype=field.dtype)
        for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            found[place] = maps[shard][row]
        return found

    @cached_property
    def _maps(self) -> dict[str, list[Array]]:
        """The memory maps of the shards of each field."""
        count = len(self.layout.shards)
        return {
            name: [_open_memory_map(_field_file(self.folder, i, name)) for i in range(count)]
            for name in self.layout.fields
        }


def open_store(folder: Path, layout: ArrayLayout, *, do: str) -> ArrayStore:
    """Open a complete store of this layout; sizes are checked, checksums are not (see `broken_shards`).

    Raises NotReady if it is missing, has another layout, or isn't complete. The error's `do` says how to write it.
    """
    require_same(folder, layout, do=do)
    if found := broken_shards(folder, layout, checksums=False):
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise NotReady(f"shard {found[0].shard} {found[0].reason}{more}", where=str(folder), do=do)
    return ArrayStore(folder, layout)


def broken_shards(folder: Path, layout: ArrayLayout, *, checksums: bool = True) -> list[Fault]:
    """The missing and broken shards, in order; without `checksums`, only existence, dtype and shape are checked."""

    def check(shard: int) -> Fault | None:
        reason = _shard_fault(folder, layout, shard, checksums)
        return None if reason is None else Fault(shard, reason)

    with ThreadPoolExecutor(THREADS) as pool:
        return [fault for fault in pool.map(check, range(len(layout.shards))) if fault is not None]


def require_same(folder: Path, layout: ArrayLayout, *, do: str = "write it first") -> None:
    """Raise NotReady if a folder contains no store, or one with another layout; shards are not checked."""
    if not (folder / STORE).exists():
        raise NotReady("the store does not exist yet", where=str(folder), do=do)
    _check_same(folder, layout.to_json())


def read_rows(folder: Path) -> int | None:
    """The number of rows of a folder's store when complete, or None without a store."""
    try:
        return int(json.loads((folder / STORE).read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _shard_fault(folder: Path, layout: ArrayLayout, shard: int, checksums: bool) -> str | None:
    """Why a shard is missing or broken, or None for a good one."""
    try:
        hashes = json.loads(_shard_mark(folder, shard).read_text())["sha256"]
    except FileNotFoundError:
        return MISSING
    except (ValueError, KeyError, TypeError):
        return "has a broken list of checksums"
    for name, field in layout.fields.items():
        file = _field_file(folder, shard, name)
        try:
            mapped = _open_memory_map(file)
        except (OSError, ValueError) as error:
            return f"is broken: {file.name} can't be read ({error})"
        if mapped.dtype != field.dtype or mapped.shape != (len(layout.shards[shard]), *field.shape):
            return f"is broken: {file.name} contains {mapped.dtype} {list(mapped.shape)}"
        if checksums and _sha256(file) != hashes.get(name):
            return f"is broken: {file.name} has a wrong checksum"
    return None


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise NotReady, with the fields that differ, for a folder with another store."""
    where = str(folder / STORE)
    try:
        store = json.loads((folder / STORE).read_text())
        identity = store["identity"]
        differing = [key for key in wanted if key != "identity" and store.get(key) != wanted[key]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotReady("not a description of a store", where=where, do="remove the folder") from None
    keys = sorted({*identity, *wanted["identity"]})
    differing = [key for key in keys if identity.get(key) != wanted["identity"].get(key)] or differing
    if differing:
        key = differing[0]
        expected, found = (({**source, **source["identity"]}).get(key) for source in (wanted, store))
        raise NotReady(
            f"the folder contains a store with another {' and '.join(differing)}",
            where=where, expected=f"{key} {expected!r}", got=found, do="use another folder, or remove this one",
        )  # fmt: skip


def _encode_array(array: Array, field: ArrayField, rows: int, name: str) -> bytes:
    """The bytes of a .npy file; UsageError for an array that doesn't fit the field."""
    if array.dtype != field.dtype or array.shape != (rows, *field.shape):
        raise UsageError(
            f"the rows of {name!r} don't fit their store",
            expected=f"{field.dtype} {[rows, *field.shape]}", got=f"{array.dtype} {list(array.shape)}",
        )  # fmt: skip
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _open_memory_map(file: Path) -> Array:
    return np.asarray(
        np.load(file, mmap_mode="r", allow_pickle=False)
    )  # a plain view, because indexing np.memmap is slower


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _field_file(folder: Path, shard: int, name: str) -> Path:
    return folder / f"{shard:07d}.{name}.npy"


def _shard_mark(folder: Path, shard: int) -> Path:
    return folder / f"{shard:07d}.json"
