"""The packed records of a run: one compressed file of JSON lines with every record and the place where it was written.

    RESULTS/<suite>/<run>/records.jsonl.gz

The first line is `{"format": 1, "records": N}`, each other line `{"place": "<cell>/<stage>", "record": {...}}`, sorted
by place. Equal records make equal bytes. A record in the folder of its stage takes precedence over the packed one, so a
stage that ran again counts with its new record. `store.read_record` reads both.

Format history: 1 the first.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import BrokenPack, NewerFormat
from zigma_bench.records.record import Record
from zigma_bench.system.json_files import parse_json

PACKED = "records.jsonl.gz"
FORMAT = 1
MAX_BYTES = 2**28  # of the uncompressed lines
PLACE = re.compile(r"[^/\\\x00.][^/\\\x00]{0,254}/[^/\\\x00.][^/\\\x00]{0,254}")
DO = "restore the file, or move it away; its stages then run again"


@dataclass(frozen=True)
class PackedRecords:
    """The packed records of a run, parsed as JSON, by CELL/STAGE."""

    path: Path
    documents: Mapping[str, Any]

    def get(self, place: str) -> Record | None:
        """The record of a place, or None; with the errors of `Record.from_json`."""
        document = self.documents.get(place)
        return None if document is None else Record.from_data(document, where=f"{self.path}, {place}")

    @property
    def cells(self) -> set[str]:
        """The names of the folders of cells that have records here."""
        return {place.partition("/")[0] for place in self.documents}


def read_packed(run: Path) -> PackedRecords:
    """The packed records of the run in a folder; none if it isn't packed.

    BrokenPack for a damaged file, NewerFormat for one of a later version.
    """
    path = run / PACKED
    try:
        found = os.stat(path)
    except OSError:
        return PackedRecords(path, {})
    return _read_file(path, found.st_ino, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=16)
def _read_file(path: Path, *version: int) -> PackedRecords:
    """The packed records in a file. `version`: what changes whenever the file is replaced."""
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        first, *lines = data.decode().splitlines()
        head = parse_json(first)
        version_found = head["format"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise _broken(path, error) from None
    if version_found != FORMAT:
        what = "the packed records have a format that this version can't read"
        do = "update zigma-bench, or move the file away"
        raise NewerFormat(what, where=str(path), expected=f"format {FORMAT}", got=version_found, do=do)
    try:
        documents = dict(_parse_line(line) for line in lines)
        if not len(documents) == len(lines) == head["records"]:
            raise ValueError(f"it has {len(documents):,} records, and its first line counts {head['records']!r}")
        return PackedRecords(path, documents)
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(path, error) from None


def _parse_line(line: str) -> tuple[str, Any]:
    """The place and the record of a line. ValueError for a place that is not CELL/STAGE."""
    found = parse_json(line)
    if not PLACE.fullmatch(found["place"]):
        raise ValueError(f"the place {found['place'][:100]!r} is not CELL/STAGE")
    return found["place"], found["record"]


def _broken(path: Path, error: Exception) -> BrokenPack:
    return BrokenPack(f"the packed records can't be read ({error})", where=str(path), do=DO)


def encode_packed(records: Mapping[str, Record]) -> bytes:
    """The bytes of the packed file of some records by CELL/STAGE; the same for equal records, on every day."""
    lines: list[dict[str, Any]] = [{"format": FORMAT, "records": len(records)}]
    lines += [{"place": place, "record": asdict(records[place])} for place in sorted(records)]
    texts = [json.dumps(line, sort_keys=True, allow_nan=False, separators=(",", ":")) for line in lines]
    return gzip.compress(("\n".join(texts) + "\n").encode(), compresslevel=9, mtime=0)
