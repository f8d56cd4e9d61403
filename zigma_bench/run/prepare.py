"""From the words of a command to a plan, and from a plan to a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zigma_bench.data.images import Counts
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import Cell, Plan, Stage, make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.encode import of_the_hub
from zigma_bench.run.estimate import Estimator
from zigma_bench.suite import load_suite
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
    """The plan of a suite file with settings laid over it, narrowed to the cells that match one of `only`, if any.

    With `fetch` the autoencoders and text encoders that it names on the Hub and that are missing are downloaded, where
    the network is allowed and nothing else is missing, here and on a device: what a person must provide is said before
    hours of downloads.
    """
    suite, source = load_suite(path, settings=settings)
    plan = make_plan(suite, source, catalogue(), smoke=smoke)
    models = of_the_hub(suite) if fetch and not smoke and plan.missing else []
    absent = {item: model for model in models for item in model.missing() if item in plan.missing}
    if absent and len(absent) == len(plan.missing if device_type is None else plan.missing_on(device_type)):
        for model in absent.values():
            model.fetch()
        plan = make_plan(suite, source, catalogue())
    return plan.only(*only) if only else plan


def check_stages(plan: Plan, stages: Sequence[Stage], results: Path, device: Device) -> None:
    """A stage alone needs the stages before it done, and some cell that has it."""
    if not any(stage in cell.stages for cell in plan.cells for stage in stages):
        raise UsageError(f"no cell of this suite has the stage {' or '.join(stages)}", where=plan.file)
    for cell in plan.cells:
        last = max((cell.stages.index(stage) for stage in stages if stage in cell.stages), default=0)
        earlier = [stage for stage in cell.stages[:last] if stage not in (*stages, "efficiency")]
        if due := find_due(cell, cell_folder(results, cell), device, earlier).stages:
            raise NotReady(f"the stage {due[0]} of this cell is not done", where=cell.label, do=f"run {due[0]} first")


def plan_json(plan: Plan, results: Path, device: Device) -> dict[str, Any]:
    """The plan with everything resolved, as one document."""
    cells, estimator = [], Estimator(results, device)
    for cell in plan.cells:
        guess = estimator(cell)
        cells.append({
            **cell.model_dump(mode="json"), "label": cell.label, "stages": list(cell.stages),
            "objective": asdict(cell.objective), "sampler": asdict(cell.sampler),
            "identity": {stage: cell.identity(stage, card=device.card) for stage in cell.stages},
            "estimated_seconds": guess.seconds, "estimated_bytes": guess.bytes, "estimate_from": guess.source,
        })  # fmt: skip
    missing = [{"what": item.what, "do": item.do} for item in plan.missing_on(device.type)]
    return {
        "suite": plan.suite.name,
        "question": plan.question,
        "smoke": plan.smoke,
        "cells": cells,
        "missing": missing,
        "data": [{"data": label, **asdict(counts)} for label, counts in image_counts(plan.cells)],
    }


def image_counts(cells: Sequence[Cell]) -> list[tuple[str, Counts]]:
    """Each data set of some cells by its label, with the number of its images, of which none is decoded."""
    from zigma_bench.data.reading.counts import counts_of

    sets = {cell.data_text: (cell.data_label or cell.data.name, cell.data) for cell in cells if cell.data is not None}
    found = []
    for label, data in sets.values():
        spec = catalogue().get("dataset", data.name)
        found.append((label, counts_of(spec, spec.make_options(data.options))))
    return found
