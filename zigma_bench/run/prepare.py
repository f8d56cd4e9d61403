"""Make a plan from the arguments of a command, and a JSON document from a plan."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zigma_bench.data.images import Counts
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import Cell, Plan, Stage, make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.encode import hub_models
from zigma_bench.run.estimate import Estimator
from zigma_bench.run.reuse import find_reusable, other_folders
from zigma_bench.run.runs import find_run
from zigma_bench.run.selection import with_choices_made
from zigma_bench.suite import Suite, load_suite
from zigma_bench.system.device import Device


def prepare(
    path: Path,
    *,
    settings: Sequence[str],
    only: Sequence[str],
    smoke: bool,
    fetch: bool = False,
    device_type: str | None = None,
) -> Plan:
    """The plan of a suite file with its settings applied, with only the cells that match one of `only`, if any.

    With `fetch`, missing autoencoders and text encoders of the Hub are downloaded, but only in online mode and only if
    nothing else is missing (on a device of `device_type`, if that is set). So a user learns what else to provide before
    hours of downloads.
    """
    suite, source = load_suite(path, settings=settings)
    plan = make_plan(suite, source, catalogue(), smoke=smoke)
    models = hub_models(suite) if fetch and not smoke and plan.missing else []
    absent = {item: model for model in models for item in model.missing() if item in plan.missing}
    if absent and len(absent) == len(plan.missing if device_type is None else plan.missing_on(device_type)):
        for model in absent.values():
            model.fetch()
        plan = make_plan(suite, source, catalogue())
    plan = replace(plan, settings=() if _is_suite_of_file(path, suite, settings) else tuple(settings))
    return plan.only(*only) if only else plan


def _is_suite_of_file(path: Path, suite: Suite, settings: Sequence[str]) -> bool:
    """Whether a suite is the same without its settings. Without them, the file alone may be invalid."""
    if not settings:
        return True
    with contextlib.suppress(UsageError):
        return load_suite(path)[0] == suite
    return False


def check_stages(plan: Plan, stages: Sequence[Stage], results: Path, device: Device, name: str | None = None) -> None:
    """Check that some cell has the stages, and that their earlier stages are done in this run or can be reused from
    another run of the suite.

    Raises UsageError and NotReady if not.
    """
    if not any(stage in cell.stages for cell in plan.cells for stage in stages):
        raise UsageError(f"no cell of this suite has the stage {' or '.join(stages)}", where=plan.file)
    run = results / plan.suite.name / find_run(plan, results, name).name
    plan = with_choices_made(plan, run, device)
    if plan.waiting and "train" not in stages:
        rows = ", ".join(sorted(selection.row for selection in plan.selections)[:3])
        what = f"the value of {plan.selections[0].over} is not chosen yet for {len(plan.selections)} rows ({rows})"
        raise NotReady(what, where=plan.file, do="run or train the suite first")
    for cell in plan.cells:
        last = max((cell.stages.index(stage) for stage in stages if stage in cell.stages), default=0)
        earlier = [stage for stage in cell.stages[:last] if stage not in (*stages, "efficiency")]
        folder = cell_folder(run, cell)
        due = find_due(cell, folder, device, earlier).stages
        reusable = find_reusable(cell, folder, other_folders(results, cell, folder), device, due)
        if left := [stage for stage in due if stage not in reusable]:
            raise NotReady(f"the stage {left[0]} of this cell is not done", where=cell.label, do=f"run {left[0]} first")


def plan_json(plan: Plan, results: Path, device: Device, name: str | None = None) -> dict[str, Any]:
    """The resolved plan as one document."""
    run = find_run(plan, results, name)
    plan = with_choices_made(plan, results / plan.suite.name / run.name, device)
    cells, estimator = [], Estimator(results, device)
    waiting = plan.waiting
    for cell in (*plan.cells, *waiting):
        guess = estimator(cell)
        cells.append({
            **cell.model_dump(mode="json"), "label": cell.label, "stages": list(cell.stages),
            "objective": asdict(cell.objective), "sampler": asdict(cell.sampler),
            "identity": {stage: cell.identity(stage, device_model=device.model_name) for stage in cell.stages},
            "estimated_seconds": guess.seconds, "estimated_bytes": guess.bytes, "estimate_from": guess.source,
            "waits_for_selection": cell in waiting,
            "estimate_records": guess.records, "estimated_range_seconds": guess.range_seconds,
        })  # fmt: skip
    missing = [{"what": item.what, "do": item.do} for item in plan.missing_on(device.type)]
    return {
        "suite": plan.suite.name,
        "run": run.name,
        "is_new_run": run.existing is None,
        "options": list(run.options),
        "question": plan.question,
        "smoke": plan.smoke,
        "cells": cells,
        "missing": missing,
        "notes": list(plan.notes),
        "data": [{"data": label, **asdict(counts)} for label, counts in image_counts(plan.cells)],
    }


def image_counts(cells: Sequence[Cell]) -> list[tuple[str, Counts]]:
    """The label and the image counts of each data set of some cells. No image is decoded."""
    from zigma_bench.data.reading.counts import counts_of

    sets = {cell.data_text: (cell.data_label or cell.data.name, cell.data) for cell in cells if cell.data is not None}
    found = []
    for label, data in sets.values():
        spec = catalogue().get("dataset", data.name)
        found.append((label, counts_of(spec, spec.make_options(data.options))))
    return found
