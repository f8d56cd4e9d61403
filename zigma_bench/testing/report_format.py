"""Check a report format: text or bytes for any tables, always the same."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from zigma_bench.plugins.registry import Spec
from zigma_bench.reports.formats import make_report
from zigma_bench.reports.table import Statistic, Table, TableRow
from zigma_bench.testing.lookup import imports_without_torch
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

FACTS = {"parameters": 10, "forward_flops": 20, "flops_by": "formula", "scanned_ratio": 1.0, "tokens": 4,
         "size_match": None, "setting": None}  # fmt: skip


def report_format_report(
    spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None
) -> Report:
    """All checks of a report format, on generated tables."""
    module = plugin.__name__ if plugin is not None else _module_of(spec)
    steps = [
        CheckStep("imports without torch", "yes", lambda: imports_without_torch(module), essential=True),
        CheckStep("report", "text or bytes", lambda: _check_report(spec, _tables()), essential=True),
        CheckStep("repetition", "the same report", lambda: _check_repetition(spec)),
        CheckStep("several suites", "text or bytes", lambda: _check_report(spec, _tables() * 2)),
        CheckStep("rows without values", "text or bytes", lambda: _check_report(spec, _tables(figures=False))),
    ]
    return Report("report-format", spec.name, spec.owner, run_checks(steps))


def _module_of(spec: Spec) -> str:
    if isinstance(spec.target, str):
        return spec.target.partition(":")[0]
    return str(getattr(spec.target, "__module__", ""))


def _tables(*, figures: bool = True) -> list[Table]:
    """A table with a finished row, a failed row and the two anchors."""
    figure = Statistic(1.5, 0.1, 3, "1", better="lower", values={0: 1.4, 1: 1.5, 2: 1.6})
    metrics = {"fd-made-up": figure} if figures else {}
    rows = (
        TableRow("floor", "held-out images", None, 1, "done", False, None, metrics, FACTS),
        TableRow("cell", "zigma", "raster", 3, "done", False, None, metrics, FACTS, baseline=True),
        TableRow("cell", "zigma", "zigzag paths=8", 0, "failed", False, "train: out of memory", {}, FACTS),
        TableRow("ceiling", "untrained zigma", "raster", 1, "done", False, None, metrics, FACTS),
    )
    table = Table(
        suite="made-up", run="main", options=(), other_runs=("longer",), question="Is it a report?",
        folder="results/made-up/main", smoke=False, reference="train", sample_count=100, budget={"images": 1000},
        residual=(), machines=("a GPU, bf16, backend torch",), rows=rows,
    )  # fmt: skip
    return [table]


def _check_report(spec: Spec, tables: list[Table]) -> str:
    found = make_report(spec, tables)
    if not found:
        raise CheckFailed("an empty report")
    return f"{len(found):,} {'characters' if isinstance(found, str) else 'bytes'}"


def _check_repetition(spec: Spec) -> str:
    if make_report(spec, _tables()) != make_report(spec, _tables()):
        raise CheckFailed("a different report for the same tables")
    return "the same"
