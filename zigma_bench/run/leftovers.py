"""Find and remove what no run of a results folder needs.

Needed is every stage, by its name and identity, that the table file of any run of its suite lists, so that a run may
reuse it; the records of efficiency on other devices, because estimates are fitted to them; and what the cache holds for
any of these. Only files that zigma-bench writes count. A suite with a table file that can't be read is not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from zigma_bench.errors import Busy, ComparisonRefused
from zigma_bench.plan.space import LatentSpace
from zigma_bench.records.record import STAGES, Record
from zigma_bench.records.runs import ExistingRun, find_runs
from zigma_bench.records.store import (
    CHECKPOINTS,
    EMA,
    LOCK,
    OWNER,
    PARTS,
    PROGRESS,
    RECORD,
    SAMPLES,
    SPEC,
    WRITTEN,
    has_writer,
    is_abandoned,
    is_worked_on,
    only_writer,
    read_record,
    remove_abandoned,
)
from zigma_bench.records.table_file import TABLE
from zigma_bench.system.json_files import parse_json, read_text

STAGE_FOLDER = re.compile(rf"({'|'.join(STAGES)})-([0-9a-f]{{8}})")
CELL_FOLDER = re.compile(r".+-[0-9a-f]{8}")
ENTRY = re.compile(r"([0-9a-f]{64})-[0-9a-f]{32}\.np[yz]")  # a cache entry: its key, and the hash of its content
LATENTS_FOLDER = re.compile(r"[0-9a-f]{16}")
ENTRY_FOLDERS = ("features", "statistics")
EXTRACTOR_KEYS = ("owner", "options", "extractor", "layer", "weights_sha256", "resize", "feature_batch")
WRITTEN_BY_STAGES = (
    RECORD, SPEC, WRITTEN, CHECKPOINTS, PARTS, EMA, SAMPLES, "network.safetensors", "captions.json", "round-*.json",
    "grid.png", "clips.webp", ".*.tmp",
)  # fmt: skip
WRITTEN_IN_CELLS = ("log.txt", LOCK, OWNER, PROGRESS, ".*.tmp")
IN_USE = "a command works on this suite"


@dataclass(frozen=True)
class Leftover:
    """A file or folder that no run needs, its bytes, and the reason. `held`: why it can't be removed now."""

    path: Path
    bytes: int
    reason: str
    held: str | None = None


@dataclass(frozen=True)
class Leftovers:
    """What a results folder holds that no run needs. `untouched`: what isn't looked at, each with the reason."""

    found: tuple[Leftover, ...]
    untouched: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Suite:
    """A suite in a results folder: its runs, and the stages that they list, as (stage, first digits of identity)."""

    folder: Path
    runs: tuple[ExistingRun, ...]

    @property
    def needed(self) -> frozenset[tuple[str, str]]:
        cells = (cell for run in self.runs for cell in run.table.cells)
        return frozenset((stage, identity[:8]) for cell in cells for stage, identity in cell.stages.items())

    def is_in_use(self) -> bool:
        """Whether a command works on a run of this suite."""
        return any(is_worked_on(run.folder) for run in self.runs)


def find_leftovers(results: Path) -> Leftovers:
    """What no run of a results folder needs."""
    suites, untouched = _read_suites(results)
    found = [*_temporary_files(results), *_owner_files(results)]
    for suite in suites:
        found += _leftovers_of_suite(suite)
    entries, kept = _cache_leftovers(results, suites, bool(untouched))
    return Leftovers((*found, *entries), (*untouched, *kept))


def remove_leftovers(results: Path) -> tuple[Leftovers, tuple[Leftover, ...]]:
    """Remove what no run needs, and nothing that a process works on. Returns what was found, and what has been removed.

    Everything is looked up again under the locks of the suites, because another process may have begun a run meanwhile.
    """
    before = find_leftovers(results)
    suites = sorted({_suite_of(results, one.path) for one in before.found} - {results / ".cache"})
    with contextlib.ExitStack() as locks:
        busy = {folder for folder in suites if not _lock_suite(folder, locks)}
        now = {one.path for one in find_leftovers(results).found if one.held is None}
        for one in before.found:
            if one.path in now and _suite_of(results, one.path) not in busy:
                _remove(results, one.path)
    return before, tuple(one for one in before.found if not os.path.lexists(one.path))


def _suite_of(results: Path, path: Path) -> Path:
    """The folder in `results` that a path is in."""
    return results / path.relative_to(results).parts[0]


def _lock_suite(folder: Path, locks: contextlib.ExitStack) -> bool:
    """Take the lock of a suite, under which runs are created; whether no other process holds it."""
    if not folder.is_dir():  # a temporary file next to the suites
        return True
    try:
        locks.enter_context(only_writer(folder, "the runs of this suite"))
    except Busy:
        return False
    return True


def _read_suites(results: Path) -> tuple[list[_Suite], list[str]]:
    """The suites of a results folder, and a sentence about each one with a table file that can't be read."""
    suites, untouched = list[_Suite](), list[str]()
    for folder in sorted({path.parents[1] for path in results.glob(f"*/*/{TABLE}")}):
        try:
            runs, broken = find_runs(folder)
        except ComparisonRefused as error:  # NewerFormat
            untouched.append(f"the suite {folder.name}: {error}")
            continue
        if broken:
            untouched.append(f"the suite {folder.name}: {next(iter(broken.values()))}")
        else:
            suites.append(_Suite(folder, tuple(runs)))
    return suites, untouched


# Cells and stages


def _leftovers_of_suite(suite: _Suite) -> Iterator[Leftover]:
    in_use, listed = IN_USE if suite.is_in_use() else None, suite.needed
    for cell in sorted(path for path in suite.folder.glob("*/*") if _is_cell_folder(path)):
        held = in_use or ("a process works on this cell" if has_writer(cell) else None)
        stages = sorted(path for path in cell.iterdir() if _is_stage_folder(path))
        unneeded = [stage for stage in stages if not _is_needed(stage, listed)]
        if len(unneeded) == len(stages) and cell.name not in _folders_of(suite, cell.parent):
            if foreign := _foreign_files(cell):
                held = held or f"it has a file that zigma-bench doesn't write: {foreign[0].name}"
            yield Leftover(cell, size_of(cell), "no table.json of this suite lists this cell", held)
            continue
        for stage in unneeded:
            foreign = _foreign_files(stage)
            why = f"it has a file that zigma-bench doesn't write: {foreign[0].name}" if foreign else None
            reason = "no table.json of this suite lists a stage with this identity"
            yield Leftover(stage, size_of(stage), reason, held or why)
        for stage in (stage for stage in stages if stage not in unneeded):
            yield from _unfinished_files(stage, held)


def _folders_of(suite: _Suite, run: Path) -> set[str]:
    """The names of the cells' folders that the table file of a run lists."""
    return {cell.folder for one in suite.runs if one.folder == run for cell in one.table.cells}


def _is_cell_folder(path: Path) -> bool:
    """Whether a folder is that of a cell: its name ends in a hash, and it has nothing but stages and files."""
    if path.is_symlink() or not path.is_dir() or not CELL_FOLDER.fullmatch(path.name):
        return False
    return any(_is_stage_folder(child) for child in path.iterdir())


def _is_stage_folder(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir() or not STAGE_FOLDER.fullmatch(path.name):
        return False
    return (path / SPEC).is_file() or (path / RECORD).is_file() or not any(path.iterdir())


def _is_needed(stage: Path, listed: frozenset[tuple[str, str]]) -> bool:
    """Whether a run lists a stage, or estimates use it."""
    name, digits = stage.name.rsplit("-", 1)
    if (name, digits) in listed:
        return True
    with contextlib.suppress(ComparisonRefused):
        record = read_record(stage)
        return name == "efficiency" and record is not None and record.status == "done"
    return True  # a record that can't be read may be one of a later version


def _foreign_files(folder: Path) -> list[Path]:
    """What zigma-bench doesn't write in the folder of a cell or of a stage."""
    if STAGE_FOLDER.fullmatch(folder.name):
        return [path for path in folder.iterdir() if not _matches(path, WRITTEN_BY_STAGES)]
    found = []
    for path in sorted(folder.iterdir()):
        if _is_stage_folder(path):
            found += _foreign_files(path)
        elif not _matches(path, WRITTEN_IN_CELLS):
            found.append(path)
    return found


def _matches(path: Path, patterns: Iterable[str]) -> bool:
    return any(path.match(pattern) for pattern in patterns)


def _unfinished_files(stage: Path, held: str | None) -> Iterator[Leftover]:
    """The checkpoints and parts of a finished stage, which was killed before it removed them."""
    paths = sorted(path for pattern in (CHECKPOINTS, PARTS, WRITTEN) for path in stage.glob(pattern))
    with contextlib.suppress(ComparisonRefused):
        record = read_record(stage) if paths else None
        if record is not None and record.status == "done":
            for path in paths:
                yield Leftover(path, size_of(path), "the stage is done without it", held)


# What killed processes were writing


def _temporary_files(results: Path) -> Iterator[Leftover]:
    for place, folders, names in os.walk(results):
        for name in sorted((*folders, *names)):
            path = Path(place, name)
            if name.startswith(".") and name.endswith(".tmp") and is_abandoned(path):
                yield Leftover(path, size_of(path), "a killed process was writing this")
        folders[:] = [name for name in folders if not name.endswith(".tmp")]


def _owner_files(results: Path) -> Iterator[Leftover]:
    for path in sorted(results.rglob(OWNER)):
        if not has_writer(path.parent):
            yield Leftover(path, size_of(path), "the process that it names has ended")


# The cache


def _cache_leftovers(
    results: Path, suites: Iterable[_Suite], some_unread: bool
) -> tuple[list[Leftover], tuple[str, ...]]:
    """The entries of the cache that no run uses, and why some are not looked at."""
    cache = results / ".cache"
    paths = [path for folder in ENTRY_FOLDERS for path in sorted((cache / folder).glob("*"))]
    entries = [path for path in paths if ENTRY.fullmatch(path.name) and path.is_file() and not path.is_symlink()]
    latents = [path for path in sorted((cache / "latents").glob("*")) if LATENTS_FOLDER.fullmatch(path.name)]
    if not entries and not latents:
        return [], ()
    if some_unread:
        return [], (f"{cache}: a suite can't be read, and may use it",)
    keys, spaces, unfinished = set[str](), set[str](), list[str]()
    for run in (run for suite in suites for run in suite.runs):
        keys |= _keys_of(run)
        spaces |= _spaces_of(run)
        unfinished += [f"{run.folder.parent.name}/{run.name}"] if _is_unfinished(run) else []
    if unfinished:
        more = f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""
        return [], (f"{cache}: the run {unfinished[0]}{more} isn't finished, and may use it",)
    reason = "no record was measured with it; it would be computed again"
    found = [Leftover(path, size_of(path), reason) for path in entries if path.name[:64] not in keys]
    for path in (path for path in latents if path.name not in spaces):
        held = "a process is encoding it" if has_writer(path) else None
        found.append(Leftover(path, size_of(path), "no cell of a run has these latents", held))
    return found, ()


def _is_unfinished(run: ExistingRun) -> bool:
    return any(
        record is None or record.status != "done"
        for cell in run.table.cells
        for record in _records_of(run, cell.folder, cell.stages).values()
    )


def _records_of(run: ExistingRun, folder: str, stages: Mapping[Any, str]) -> dict[str, Record | None]:
    """The records of a cell by stage; None for one that is missing or can't be read."""
    found: dict[str, Record | None] = {}
    for stage, identity in stages.items():
        found[stage] = None
        with contextlib.suppress(ComparisonRefused):
            found[stage] = read_record(run.folder / folder / f"{stage}-{identity[:8]}", identity)
    return found


def _keys_of(run: ExistingRun) -> set[str]:
    """The keys of the features and statistics that the records of a run were measured with, on any kind of device."""
    keys = set[str]()
    for cell in run.table.cells:
        record = _records_of(run, cell.folder, cell.stages).get("quality")
        for facts in (m.fingerprint for m in record.measurements) if record is not None else ():
            reference = facts.get("reference")
            if isinstance(reference, dict) and "sha256" in reference:
                extractor = {key: facts[key] for key in EXTRACTOR_KEYS if key in facts}
                keys |= {_entry_key(extractor, reference["sha256"], kind) for kind in ("cpu", "cuda")}
    return keys


def _entry_key(extractor: Mapping[str, Any], pixels: str, kind: str) -> str:
    """The key of features: `metrics.features.content_key`, from a fingerprint."""
    facts = {**extractor, "pixels": pixels, "device": kind}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _spaces_of(run: ExistingRun) -> set[str]:
    """The names of the folders of latents that the cells of a run are trained on."""
    found = set[str]()
    for cell in run.table.cells:
        for stage, identity in cell.stages.items():
            space = _cell_of(run.folder / cell.folder / f"{stage}-{identity[:8]}").get("latents")
            with contextlib.suppress(pydantic.ValidationError):
                found |= {LatentSpace.model_validate_json(json.dumps(space)).folder_name} if space else set()
    return found


def _cell_of(stage: Path) -> dict[str, Any]:
    """The cell in the record of a stage, or in its specification; empty without either."""
    for name in (RECORD, SPEC):
        with contextlib.suppress(FileNotFoundError, ComparisonRefused, ValueError, KeyError, TypeError):
            return dict(parse_json(read_text(stage / name))["cell"])
    return {}


# Sizes and removal


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder. A file with other hard links counts nothing: they stay."""
    if path.is_dir() and not path.is_symlink():
        return sum(size_of(child) for child in path.iterdir())
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if found.st_nlink <= 1 else 0


def _remove(results: Path, path: Path) -> None:
    """Remove a file or folder, unless a process works on it."""
    if path.name.endswith(".tmp"):
        remove_abandoned(path)
        return
    locked = _locked_folder(results, path)
    with contextlib.suppress(Busy), contextlib.nullcontext() if locked is None else only_writer(locked):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _locked_folder(results: Path, path: Path) -> Path | None:
    """The folder of the cell or of the latents that a path is in, whose lock its writer holds; None for other files."""
    if path.name == OWNER:
        return path.parent
    first, *parts = path.relative_to(results).parts
    if first == ".cache":
        return path if parts[0] == "latents" else None
    return results.joinpath(first, *parts[:2]) if len(parts) >= 2 else None
