"""Check an executor: it runs the cells of a small suite to their records, in any state of the files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from zigma_bench.plan import Cell, Plan, Stage, make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Spec
from zigma_bench.run.executors.executor import CellOutcome
from zigma_bench.run.run_plan import run_plan
from zigma_bench.suite import Suite, YamlSource, validate_sections
from zigma_bench.system.device import find_device
from zigma_bench.testing.lookup import imports_without_torch
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

SUITE: Mapping[str, Any] = {
    "name": "checked",
    "data": {"name": "digits", "validation": 100},
    "compare": [{"backbone": {"name": "zigma", "width": 16, "depth": 1, "patch": 4}, "scans": [{"name": "raster"}]}],
    "budget": {"images": 32},
    "train": {"batch": 16},
    "sample": {"count": 16, "batch": 16, "evaluations": 1},
    "quality": [{"name": "val-loss"}],
}
STAGES: tuple[Stage, ...] = ("train", "sample", "quality")


def executor_report(
    spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None
) -> Report:
    """All checks of an executor, with a suite of one cell and two anchors on the CPU."""
    executor = spec.load()(spec.make_options(spec.resolve(options or {}, where="options")))
    source = YamlSource("checked", "")
    plan = make_plan(validate_sections(Suite, SUITE, source), source, catalogue())
    module = plugin.__name__ if plugin is not None else str(spec.target).partition(":")[0]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        steps = [
            CheckStep("imports without torch", "yes", lambda: imports_without_torch(module), essential=True),
            CheckStep("a run", "every cell done, with its records", lambda: _check_run(executor, plan, results, "done"),
                      essential=True),
            CheckStep("a second run", "nothing to do", lambda: _check_run(executor, plan, results, "skipped")),
        ]  # fmt: skip
        return Report("executor", spec.name, spec.owner, run_checks(steps))


class _SilentWatcher:
    """Shows nothing."""

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None: ...

    def event(self, cell: Cell, event: dict[str, Any]) -> None: ...

    def end(self, cell: Cell) -> None: ...


def _check_run(executor: Any, plan: Plan, results: Path, status: str) -> str:
    outcomes: Sequence[CellOutcome] = run_plan(
        plan, results, (find_device("cpu"),), _SilentWatcher(), executor, stages=STAGES
    )
    if [outcome.cell.label for outcome in outcomes] != [cell.label for cell in plan.cells]:
        raise CheckFailed("outcomes of other cells, or in another order")
    if wrong := [outcome for outcome in outcomes if outcome.status != status]:
        raise CheckFailed(f"{wrong[0].cell.label} is {wrong[0].status}: {wrong[0].reason}")
    missing = [outcome.cell.label for outcome in outcomes for stage in outcome.cell.stages
               if not list(outcome.folder.glob(f"{stage}-*/record.json"))]  # fmt: skip
    if missing:
        raise CheckFailed(f"{missing[0]} has no record")
    return f"{len(outcomes)} cells {status}"
