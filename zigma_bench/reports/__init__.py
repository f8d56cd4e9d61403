"""Records as tables, and the built-in formats of a report, registered by the same hook as a plugin's. No torch here."""

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
        doc="Tables for a terminal, in colours where it has some",
    )
    register("markdown", "zigma_bench.reports.render:to_markdown", doc="Markdown tables, with their footers")
    register("csv", "zigma_bench.reports.render:to_csv", doc="A line for each row and metric")
    register("json", "zigma_bench.reports.render:to_json", doc="One document with all rows and all they hold")
