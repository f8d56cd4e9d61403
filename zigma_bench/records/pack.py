"""Pack the records of a run into one file, and unpack them.

Packing removes nothing, unless it is asked to. Then it removes the folders of finished stages with everything in them,
including weights and samples, after it has read the packed file again and found every record in it. The hashes of the
removed files are in the records. Stages that are not finished, and cells on which a process works, stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import BrokenPack, Busy, UsageError
from zigma_bench.records.packed import PACKED, encode_packed, read_packed
from zigma_bench.records.record import Record
from zigma_bench.records.store import (
    CHECKPOINTS,
    PARTS,
    RECORD,
    WRITTEN,
    has_writer,
    only_writer,
    place_of,
    read_record,
    record_folders,
    write_atomic,
    write_record,
)
from zigma_bench.records.table_file import require_table_file

AT_WORK = "another process is working on it"
UNFINISHED = "it has a stage that is not finished"
NEWER = "it has a record that is newer than the packed one"


@dataclass(frozen=True)
class PackOutcome:
    """What packing or unpacking a run has done.

    `records`: how many it has packed or unpacked. `removed`: the folders of cells that are gone. `left`: the folders of
    cells that it left as they are although asked, each with the reason.
    """

    path: Path
    records: int
    removed: tuple[Path, ...] = ()
    left: Mapping[Path, str] | None = None


def pack_run(run: Path, *, remove: bool = False) -> PackOutcome:
    """Pack the records of the run in a folder, and with `remove` remove the folders of its finished stages.

    UsageError for a folder without a run, Busy if another process packs it, ComparisonRefused for a broken record.
    """
    require_table_file(run)
    with only_writer(run, "the packed records of this run"):
        records = _all_records(run)
        data, path = encode_packed(records), run / PACKED
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data)
        _verify(run, records)
        if not remove:
            return PackOutcome(path, len(records))
        cells = sorted({folder.parent for folder in record_folders(run) if folder.parent.is_dir()})
        left = {cell: reason for cell in cells if (reason := _remove_cell(cell, records)) is not None}
        return PackOutcome(path, len(records), tuple(cell for cell in cells if cell not in left), left)


def unpack_run(run: Path) -> PackOutcome:
    """Write the packed records of a run into the folders of their stages, and remove the packed file.

    Records that are there stay. The packed file stays too while another process works on one of the cells. UsageError
    for a run without packed records.
    """
    require_table_file(run)
    with only_writer(run, "the packed records of this run"):
        packed = read_packed(run)
        if not packed.path.exists():
            raise UsageError("the run has no packed records", where=str(packed.path), do="nothing has to be unpacked")
        left = {run / cell: AT_WORK for cell in sorted(packed.cells) if not _unpack_cell(run / cell)}
        if not left:
            packed.path.unlink()
        return PackOutcome(packed.path, len(packed.documents), left=left)


def read_records(run: Path) -> Iterator[Record]:
    """Every record of the run in a folder, packed or not, sorted by the folders of their stages."""
    yield from _all_records(run).values()


def _all_records(run: Path) -> dict[str, Record]:
    """Every record of a run by CELL/STAGE."""
    found = {place_of(folder): read_record(folder) for folder in record_folders(run)}
    return {place: record for place, record in found.items() if record is not None}


def _verify(run: Path, records: Mapping[str, Record]) -> None:
    """BrokenPack if the packed file doesn't hold exactly these records."""
    packed = read_packed(run)
    if {place: packed.get(place) for place in packed.documents} != dict(records):
        what = "the packed file doesn't hold the records that were written to it"
        raise BrokenPack(what, where=str(packed.path), do="check the disk, and pack again; nothing was removed")


def _remove_cell(cell: Path, records: Mapping[str, Record]) -> str | None:
    """Remove the folders of a cell's packed stages, and the cell's if nothing unfinished is left; else the reason."""
    if has_writer(cell):
        return AT_WORK
    try:
        with only_writer(cell):
            return _remove_stages(cell, records)
    except Busy:
        return AT_WORK


def _remove_stages(cell: Path, records: Mapping[str, Record]) -> str | None:
    """Remove the folders of a locked cell's packed stages. A half removed one has its record in the packed file."""
    reason = None
    for stage in sorted(path for path in cell.iterdir() if path.is_dir()):
        record = read_record(stage)
        if record is None or any(next(stage.glob(name), None) for name in (CHECKPOINTS, PARTS, WRITTEN)):
            reason = UNFINISHED
        elif record != records.get(place_of(stage)):
            reason = NEWER
        else:
            shutil.rmtree(stage)
    if reason is None:
        shutil.rmtree(cell)
    return reason


def _unpack_cell(cell: Path) -> bool:
    """Write the packed records of a cell; False if another process works on it."""
    if has_writer(cell):
        return False
    try:
        with only_writer(cell):
            for place in read_packed(cell.parent).documents:
                folder = cell.parent / place
                if folder.parent == cell and not (folder / RECORD).exists():
                    record = read_record(folder)
                    assert record is not None, "it is in the packed file"
                    write_record(folder, record)
        return True
    except Busy:
        return False
