"""`merge`: bring the runs of one results folder into another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zigma_bench.cli.suites import AsJson
from zigma_bench.errors import CellFailed
from zigma_bench.escaping import visible

if TYPE_CHECKING:
    from zigma_bench.run.merge import MergeReport, RunMerge


def merge(
    target: Annotated[Path, typer.Argument(help="The results folder that gets the runs.", metavar="A")],
    source: Annotated[Path, typer.Argument(help="The results folder whose runs are brought; it stays.", metavar="B")],
    as_json: AsJson = False,
) -> None:
    """Bring the runs of the results folder B into A.

    Nothing is overwritten. Runs with equal options become one. The same command
    resumes an interrupted merge. Exit code 1 if something is left out.
    """
    from zigma_bench.run.merge import merge_results

    report = merge_results(target, source)
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        for run in report.runs:
            print(visible(_describe_run(run)))
    if not report.is_complete:
        raise _incomplete(report, source)


def _describe_run(run: RunMerge) -> str:
    """A run, where it went, and how many stages."""
    if run.source == run.target:
        where = "new run" if run.is_new else "same run"
    elif run.is_new:
        where = f"new run {run.target}, because the name {run.source} belongs to other options"
    else:
        where = f"same run as {run.target}"
    counts = {"brought": run.brought, "already there": run.present, "not finished": run.unfinished}
    stages = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"
    return f"{run.suite}/{run.source}: {where}; stages: {stages}; files: {run.files:,}"


def _incomplete(report: MergeReport, source: Path) -> CellFailed:
    """The error that lists everything that was left out."""
    problems = [*report.conflicts, *report.problems]
    what = problems[0] if len(problems) == 1 else f"{len(problems)} things are left out, and stay as they are"
    return CellFailed(what, where=str(source), problems=problems if len(problems) > 1 else ())
