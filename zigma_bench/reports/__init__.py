"""Make tables from records, and register the built-in report formats by the same hook as a plugin's.

Doesn't import torch.
"""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import ReportFormatFacts


@hookimpl
def register_report_formats(register: Callable[..., None]) -> None:
    register(
        "terminal",
        "zigma_bench.reports.terminal:to_terminal",
        facts=ReportFormatFacts(escaped=True),
        doc="Tables for a terminal, in colours if it supports them",
    )
    register("markdown", "zigma_bench.reports.render:to_markdown", doc="Markdown tables with footers")
    register("csv", "zigma_bench.reports.render:to_csv", doc="One line per row and metric")
    register("json", "zigma_bench.reports.render:to_json", doc="One document with all rows and all their values")
