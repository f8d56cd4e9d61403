"""Bring a plan up to date: open its run, reuse what other runs have, encode what is missing, and run its cells."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from zigma_bench.errors import BrokenPlugin, ComparisonRefused
from zigma_bench.plan import Cell, Plan, Stage
from zigma_bench.records.store import LEAST_BYTES, check_writable, clear_leftovers, working_on
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.encode import encode_latents, text_cells, text_problems
from zigma_bench.run.executors.executor import CellOutcome, Executor, RunPlace, Watcher
from zigma_bench.run.reuse import reuse_stages
from zigma_bench.run.runs import OpenRun, find_run, mark_updated, open_run
from zigma_bench.run.selection import with_choices_made
from zigma_bench.system.device import Device


def run_plan(
    plan: Plan,
    results: Path,
    devices: Sequence[Device],
    watcher: Watcher,
    executor: Executor,
    *,
    stages: Sequence[Stage],
    name: str | None = None,
    timeouts: Mapping[Stage, float] | None = None,
    executor_name: str = "local",
) -> list[CellOutcome]:
    """Bring every cell of a plan up to date. Raises Interrupted when asked to stop.

    `devices`: one or more of the same model. `name`: the name of the run; by default it is the run with the options of
    the plan. `timeouts`: seconds by stage. `executor_name`: for the records. Of rows with a selection, the cells that
    tune them run first. Finished stages of the suite's other runs are reused. Cells that another process works on come
    last, after that process has finished them.
    """
    check_writable(results)
    clear_leftovers(results)
    device, outcomes, tried = devices[0], dict[str, CellOutcome](), set[str]()
    while True:
        place_of_run = results / plan.suite.name / find_run(plan, results, name).name
        plan = with_choices_made(plan, place_of_run, device, tried)
        run = open_run(plan, results, device, name)
        place = RunPlace(results, run.folder, tuple(devices), watcher, stages, timeouts or {}, executor_name)
        for choice in plan.choices if tried else ():
            text = f"{choice.words} is chosen by the loss on the tuning part"
            watcher.event(choice.finals[0], {"event": "notice", "text": text})
        left = [cell for cell in plan.cells if cell_key(cell) not in outcomes]
        if not left:
            break
        with working_on(run.folder):
            _prepare_cells(left, place, run)
            found = {cell_key(outcome.cell): outcome for outcome in executor.run_cells(left, place)}
        _check_outcomes(left, found, executor_name)
        outcomes |= found
        tried |= {cell.label for cell in left}
    clear_leftovers(results)
    return [outcomes[cell_key(cell)] for cell in plan.cells]


def cell_key(cell: Cell) -> str:
    """What distinguishes a cell from all others of its plan."""
    return f"{cell.label} {cell.identity(cell.stages[-1], device_model='')}"


def _check_outcomes(cells: Sequence[Cell], found: Mapping[str, CellOutcome], executor_name: str) -> None:
    """BrokenPlugin if an executor has lost a cell."""
    lost = [cell.label for cell in cells if cell_key(cell) not in found]
    if lost:
        raise BrokenPlugin(
            f"the executor {executor_name!r} returned no outcome for {len(lost)} cells", expected="one for each cell",
            got=lost[0], do="repair the plugin",
        )  # fmt: skip


def _prepare_cells(cells: Sequence[Cell], place: RunPlace, run: OpenRun) -> None:
    """Do what the cells need before they run: reuse, space on the disk, and encoded latents."""
    _reuse_finished_stages(cells, place)
    due = _find_all_due(cells, place)
    check_writable(run.folder, max((_needed_bytes(cell, place.stages) for cell in due), default=0))
    if due and not run.is_new:
        mark_updated(run)
    _encode_latents_first(due, place)


def _reuse_finished_stages(cells: Sequence[Cell], place: RunPlace) -> None:
    """Reuse finished stages of other runs before anything is encoded, and say so.

    A cell with an unreadable record or file is skipped here; when it runs, it becomes a failed row with the reason.
    """
    for cell in cells:
        folder = cell_folder(place.folder, cell)
        with contextlib.suppress(ComparisonRefused, OSError):
            text = reuse_stages(cell, place.results, folder, place.device, place.stages)
            if text is not None:
                place.watcher.event(cell, {"event": "notice", "text": text})


def _find_all_due(cells: Sequence[Cell], place: RunPlace) -> list[Cell]:
    """The cells with a due stage, except those with an unreadable record: these become failed rows with the reason."""
    found = []
    for cell in cells:
        with contextlib.suppress(ComparisonRefused):
            if find_due(cell, cell_folder(place.folder, cell), place.device, place.stages).stages:
                found.append(cell)
    return found


def _needed_bytes(cell: Cell, stages: Sequence[Stage]) -> int:
    """The approximate bytes that a cell writes: two checkpoints (weights, EMA, Adam's moments) and its images twice."""
    trained = cell.parameters * 4 * 8 if "train" in stages and cell.role == "cell" else 0
    images = cell.sample.count * cell.frames * cell.height * cell.width * 3 if not cell.timed_alone else 0
    return max(LEAST_BYTES, trained + 2 * images)


def _encode_latents_first(due: Sequence[Cell], place: RunPlace) -> None:
    """Complete the latent caches that due stages read, and compare existing caches with their checksums.

    NotReady if text features are broken. Missing text features are encoded by the first cell that reads them.
    """

    def reads(cell: Cell) -> bool:
        left = find_due(cell, cell_folder(place.folder, cell), place.device, place.stages).stages
        return "train" in left or "quality" in left or cell.role == "reconstruction"

    reading = [cell for cell in due if reads(cell)]
    for cell in text_cells(reading):
        assert cell.text is not None, "text cells have text features"
        if problems := text_problems(cell.text):
            raise problems[0]
    cells = [cell for cell in reading if cell.latents is not None]
    if cells:
        began = time.monotonic()
        place.watcher.event(cells[0], {"event": "start", "stage": "encode"})
        encode_latents(cells, place.results, place.device, place.watcher.event)
        seconds = time.monotonic() - began
        place.watcher.event(cells[0], {"event": "done", "stage": "encode", "seconds": seconds})
