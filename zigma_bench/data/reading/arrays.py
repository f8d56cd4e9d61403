"""Named arrays kept in shards on disk: written once, checksummed, resumable, and read by row through memory maps.

    FOLDER/  store.json            format, identity, fields, rows and rows a shard; what the store holds
             0000012.latents.npy   the rows of a shard, a file a field
             0000012.json          written last: the sha256 of each of its files. A shard without it is not there

A row has the same shape in every shard, so texts of several lengths are padded, beside a field with their lengths. A
shard is as large as what a kill may cost. Nothing here knows what the arrays mean, and nothing imports torch.
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
from zigma_bench.system.notices import notice

FORMAT = 1
STORE = "store.json"
MISSING = "is missing"
FEWEST_ROWS, MOST_SHARDS = 256, 128  # of a shard, of a store: each open shard holds a file handle a field
THREADS = 8  # hashing lets go of Python's lock
DTYPES = ("float16", "float32", "float64", "uint8", "int32", "int64", "bool")

Array = npt.NDArray[Any]
Indices = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True)
class Field:
    """The rows of one array: a dtype of DTYPES and the shape of a row, () for a number."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.dtype in DTYPES, self.dtype


@dataclass(frozen=True)
class Layout:
    """What a store holds: `identity` is all that its content depends on, as JSON; `rows` in shards of `shard_rows`."""

    identity: Mapping[str, Any]
    fields: Mapping[str, Field]
    rows: int
    shard_rows: int

    @classmethod
    def of(cls, identity: Mapping[str, Any], fields: Mapping[str, Field], rows: int) -> Layout:
        """A layout with shards of a size that suits the number of rows."""
        return cls(identity, fields, rows, max(FEWEST_ROWS, -(-rows // MOST_SHARDS)))

    @property
    def shards(self) -> list[range]:
        """The rows of each shard."""
        return [range(i, min(i + self.shard_rows, self.rows)) for i in range(0, self.rows, self.shard_rows)]

    def to_json(self) -> dict[str, Any]:
        fields = {name: {"dtype": field.dtype, "shape": list(field.shape)} for name, field in self.fields.items()}
        facts = {"format": FORMAT, "identity": dict(self.identity), "fields": fields}
        whole = {**facts, "rows": self.rows, "shard_rows": self.shard_rows}
        return json.loads(json.dumps(whole))  # type: ignore[no-any-return]  # tuples become lists, as they are read


@dataclass(frozen=True)
class Fault:
    """A shard that is missing or broken, and why."""

    shard: int
    reason: str

    @property
    def absent(self) -> bool:
        """Whether it was never written whole; a shard that was is broken."""
        return self.reason == MISSING


@dataclass(frozen=True)
class ArrayWriter:
    """A store that is being written; hold its folder's lock (`store.only_writer`)."""

    folder: Path
    layout: Layout

    def due(self) -> list[int]:
        """The shards that are missing or broken: all checksums are compared, and what is broken is reported."""
        found = faults(self.folder, self.layout)
        for fault in found:
            if not fault.absent:
                notice(f"{self.folder}: shard {fault.shard} {fault.reason}; it is made again")
        return [fault.shard for fault in found]

    def write(self, shard: int, arrays: Mapping[str, Array]) -> None:
        """Write the rows of a shard, [rows of the shard, *shape] for each field; whole or absent after a kill.

        NotReady where the disk takes no more.
        """
        mark = _mark(self.folder, shard)
        mark.unlink(missing_ok=True)  # a broken shard counts as missing while it is written again
        assert arrays.keys() == self.layout.fields.keys(), (arrays.keys(), self.layout.fields.keys())
        hashes = {}
        try:
            for name, field in self.layout.fields.items():
                data = _encoded(arrays[name], field, len(self.layout.shards[shard]), name)
                write_atomic(_file(self.folder, shard, name), data)
                hashes[name] = hashlib.sha256(data).hexdigest()
            write_json(mark, {"sha256": hashes})
        except OSError as error:
            raise NotReady(
                f"shard {shard} can't be written: {error.strerror}", where=str(self.folder),
                do="make room, and run the same command again: what was written stays",
            ) from None  # fmt: skip


def open_writer(folder: Path, layout: Layout) -> ArrayWriter:
    """Begin a store, or go on with the same one; NotReady for a folder that holds another."""
    if (folder / STORE).exists():
        _check_same(folder, layout.to_json())
    else:
        write_json(folder / STORE, layout.to_json())
    return ArrayWriter(folder, layout)


class ArrayStore:
    """A whole store, read by row. Its maps are opened once, and pages that were read are the system's to keep."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout

    def __len__(self) -> int:
        return self.layout.rows

    def take(self, name: str, indices: Indices) -> Array:
        """The rows of some indices, [n, *shape], in memory."""
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
        """The shards of each field."""
        count = len(self.layout.shards)
        return {name: [_mapped(_file(self.folder, i, name)) for i in range(count)] for name in self.layout.fields}


def open_store(folder: Path, layout: Layout, *, do: str) -> ArrayStore:
    """A whole store of this layout. Sizes are looked at and checksums are not, which `faults` compares.

    NotReady where it is absent, another one, or not whole; `do` says how it is written.
    """
    require_same(folder, layout, do=do)
    if found := faults(folder, layout, checksums=False):
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise NotReady(f"shard {found[0].shard} {found[0].reason}{more}", where=str(folder), do=do)
    return ArrayStore(folder, layout)


def faults(folder: Path, layout: Layout, *, checksums: bool = True) -> list[Fault]:
    """The shards that are missing or broken, in order; without `checksums` only by presence, shape and length."""

    def look(shard: int) -> Fault | None:
        reason = _fault(folder, layout, shard, checksums)
        return None if reason is None else Fault(shard, reason)

    with ThreadPoolExecutor(THREADS) as pool:
        return [fault for fault in pool.map(look, range(len(layout.shards))) if fault is not None]


def require_same(folder: Path, layout: Layout, *, do: str = "write it first") -> None:
    """NotReady where a folder holds no store, or another one than this; its shards are not looked at."""
    if not (folder / STORE).exists():
        raise NotReady("there is no such store yet", where=str(folder), do=do)
    _check_same(folder, layout.to_json())


def read_rows(folder: Path) -> int | None:
    """The rows that a folder's store has, or will have; None where there is none."""
    try:
        return int(json.loads((folder / STORE).read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fault(folder: Path, layout: Layout, shard: int, checksums: bool) -> str | None:
    try:
        hashes = json.loads(_mark(folder, shard).read_text())["sha256"]
    except FileNotFoundError:
        return MISSING
    except (ValueError, KeyError, TypeError):
        return "has a broken list of checksums"
    for name, field in layout.fields.items():
        file = _file(folder, shard, name)
        try:
            mapped = _mapped(file)
        except (OSError, ValueError) as error:
            return f"is broken: {file.name} can't be read ({error})"
        if mapped.dtype != field.dtype or mapped.shape != (len(layout.shards[shard]), *field.shape):
            return f"is broken: {file.name} holds {mapped.dtype} {list(mapped.shape)}"
        if checksums and _sha256(file) != hashes.get(name):
            return f"is broken: {file.name} has another checksum than it was written with"
    return None


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """NotReady, with the fields that differ, for a folder that holds another store."""
    where = str(folder / STORE)
    try:
        held = json.loads((folder / STORE).read_text())
        identity = held["identity"]
        unlike = [key for key in wanted if key != "identity" and held.get(key) != wanted[key]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotReady("this is no description of a store", where=where, do="remove the folder") from None
    keys = sorted({*identity, *wanted["identity"]})
    unlike = [key for key in keys if identity.get(key) != wanted["identity"].get(key)] or unlike
    if unlike:
        key = unlike[0]
        asked, found = (({**source, **source["identity"]}).get(key) for source in (wanted, held))
        raise NotReady(
            f"the folder holds a store of another {' and '.join(unlike)}",
            where=where, expected=f"{key} {asked!r}", got=found, do="give another folder, or remove this one",
        )  # fmt: skip


def _encoded(array: Array, field: Field, rows: int, name: str) -> bytes:
    """The bytes of a .npy file."""
    if array.dtype != field.dtype or array.shape != (rows, *field.shape):
        raise UsageError(
            f"the rows of {name!r} don't fit their store",
            expected=f"{field.dtype} {[rows, *field.shape]}", got=f"{array.dtype} {list(array.shape)}",
        )  # fmt: skip
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _mapped(file: Path) -> Array:
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))  # a plain view: rows of np.memmap cost more


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _file(folder: Path, shard: int, name: str) -> Path:
    return folder / f"{shard:07d}.{name}.npy"


def _mark(folder: Path, shard: int) -> Path:
    return folder / f"{shard:07d}.json"
