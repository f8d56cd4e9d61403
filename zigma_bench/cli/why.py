"""`why`: why a stage of a cell is due or done, and what changed in its identity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson, DeviceName, Results, RunName, Settings, Smoke, SuiteFile
from zigma_bench.escaping import visible

if TYPE_CHECKING:
    from zigma_bench.run.why import CellReasons, NearRecord


def why(
    suite: SuiteFile,
    cell: Annotated[str, typer.Argument(help="The label of a cell, or a part of it.", metavar="CELL")],
    settings: Settings = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    name: RunName = None,
    as_json: AsJson = False,
) -> None:
    """Explain why the stages of a cell are due or done.

    Lists what changed in an identity since the nearest record of the suite.
    """
    from zigma_bench.run.prepare import prepare
    from zigma_bench.run.runs import find_run
    from zigma_bench.run.selection import with_choices_made
    from zigma_bench.run.why import choose_cell, explain_cell
    from zigma_bench.system.device import find_device

    target = find_device(device)
    plan = prepare(suite, settings=settings or (), only=(), smoke=smoke)
    plan = with_choices_made(plan, results / plan.suite.name / find_run(plan, results, name).name, target)
    found = explain_cell(plan, choose_cell(plan, cell), results, target, name)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
        return
    for line in _lines_of(found):
        print(visible(line))


def _lines_of(found: CellReasons) -> Iterator[str]:
    yield f"{found.label}, run {found.run}{' (new)' if found.is_new_run else ''}"
    yield f"folder: {found.folder}"
    before: tuple[str, list[str]] | None = None  # the last stage with changes, which later ones usually have too
    for stage in found.stages:
        yield f"{stage.stage}: {stage.state}: {stage.reason} ({stage.identity[:8]})"
        if stage.near is not None:
            changes = [f"{change.key}: {change.before} -> {change.now}" for change in stage.near.changes]
            yield from (f"  {line}" for line in _near_lines(stage.near, changes, before))
            before = (stage.stage, changes) if changes else before
        elif stage.state == "due" and stage.reason.startswith("there is no record"):
            yield "  the suite has no record of this stage"
    yield from (f"left out: {text}" for text in found.unread)


def _near_lines(near: NearRecord, changes: list[str], before: tuple[str, list[str]] | None) -> Iterator[str]:
    """The nearest record and the changes since; those of an earlier stage only by its name."""
    yield f"nearest record: {near.file} (run {near.run}{', failed' if near.status == 'failed' else ''})"
    if near.unexplained is not None:
        yield near.unexplained
    elif before is not None and set(before[1]) <= set(changes):
        rest = [line for line in changes if line not in before[1]]
        yield f"changed as in {before[0]}{', and:' if rest else ''}"
        yield from rest
    else:
        yield from changes
