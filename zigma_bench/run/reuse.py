"""Reuse finished stages of the suite's other runs, so that a cell with the same identity is not trained twice.

The record is copied. The other files become hard links, or copies on a disk without hard links. So each run is
complete, and deleting one run doesn't affect another. The files are first compared with the hashes in the record. A
stage with missing files is reused too, because it is done; a stage with an altered file is not.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from zigma_bench.errors import Busy, NewerFormat
from zigma_bench.plan import Cell, Stage
from zigma_bench.records.record import Record, why_outdated
from zigma_bench.records.sealed import altered_notice, state_of
from zigma_bench.records.store import (
    CHECKPOINTS,
    PARTS,
    RECORD,
    WRITTEN,
    clear_stage_leftovers,
    only_writer,
    replace_file,
    stage_folder,
    sync_folder,
    write_record,
)
from zigma_bench.run.due import all_cell_folders, find_done
from zigma_bench.system.device import Device
from zigma_bench.system.notices import report_notice

NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)  # disks without hard links


def other_folders(results: Path, cell: Cell, folder: Path) -> list[Path]:
    """The folders of a cell in the other runs of its suite; `folder` is the one in this run."""
    return [other for other in all_cell_folders(results, cell) if other.parent != folder.parent]


def find_reusable(
    cell: Cell, folder: Path, others: Sequence[Path], device: Device, wanted: Iterable[Stage]
) -> dict[Stage, tuple[Path, Record]]:
    """The stages up to the last wanted one that are done in another run but not in `folder`, each with its folder there
    and its record."""
    if not others:
        return {}
    done, found = find_done(cell, folder, device)[0], dict[Stage, tuple[Path, Record]]()
    missing = [stage for stage in _needed_stages(cell, set(wanted)) if stage not in done]
    elsewhere = {other: _find_done_elsewhere(cell, other, device) for other in others if missing}
    for stage in missing:
        for other, records in elsewhere.items():
            record = records.get(stage)
            place = stage_folder(other, stage, cell.identity(stage, device_model=device.model_name))
            if record is not None and why_outdated(record, done) is None and _are_unaltered(place, record):
                found[stage] = place, record
                done[stage] = record
                break
    return found


def _find_done_elsewhere(cell: Cell, other: Path, device: Device) -> dict[str, Record]:
    """The records of the stages that are done in another run. Broken records are reported. A run with records of a
    later version is ignored."""
    try:
        records, faults = find_done(cell, other, device)
    except NewerFormat:
        return {}
    for text in faults:
        report_notice(text)
    return records


def _needed_stages(cell: Cell, wanted: set[Stage]) -> list[Stage]:
    """The wanted stages of a cell and those before them; efficiency only if it is wanted, because no stage reads it."""
    last = max((cell.stages.index(stage) for stage in wanted if stage in cell.stages), default=-1)
    return [stage for stage in cell.stages[: last + 1] if stage in wanted or stage != "efficiency"]


def _are_unaltered(place: Path, record: Record) -> bool:
    """Whether each file of a stage either has its hash or is missing. An altered file is reported."""
    states = {name: state_of(place / name, sha256) for name, sha256 in record.files.items()}
    for name in (name for name, state in states.items() if state == "altered"):
        report_notice(altered_notice(place / name))
    return "altered" not in states.values()


def reuse_stages(cell: Cell, results: Path, folder: Path, device: Device, wanted: Iterable[Stage]) -> str | None:
    """Copy finished stages of other runs into the folder of a cell. Returns a sentence about them, None if there are
    none.

    Also None while another process works on the cell, because the caller then waits for that process.
    """
    found = find_reusable(cell, folder, other_folders(results, cell, folder), device, wanted)
    if not found:
        return None
    try:
        with only_writer(folder):
            for stage, (place, record) in found.items():
                if stage not in find_done(cell, folder, device)[0]:
                    _copy_stage(place, stage_folder(folder, stage, record.identity), record)
    except Busy:
        return None
    runs = dict.fromkeys(place.parents[1].name for place, _ in found.values())
    return f"{', '.join(found)}: already done in the run {' and '.join(runs)}, and reused from there"


def _copy_stage(place: Path, target: Path, record: Record) -> None:
    """Copy a finished stage: first its files, then its record. After a kill, the stage is therefore not done."""
    target.mkdir(parents=True, exist_ok=True)
    unfinished = {path.name for pattern in (CHECKPOINTS, PARTS, WRITTEN) for path in place.glob(pattern)}
    for file in sorted(place.iterdir() if place.is_dir() else ()):  # a packed stage may have no folder
        if file.is_file() and not file.is_symlink() and file.name not in {*unfinished, RECORD} and file.name[0] != ".":
            link_file(file, target / file.name)
    sync_folder(target)
    write_record(target, record)
    clear_stage_leftovers(target)


def link_file(file: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy on a disk without hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with replace_file(target) as temporary:
            shutil.copyfile(file, temporary)
