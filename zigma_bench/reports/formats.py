"""Make and print a report in one of the registered formats."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from zigma_bench.errors import BrokenPlugin, UsageError
from zigma_bench.escaping import visible
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Spec
from zigma_bench.reports.table import Table


def report_format(name: str) -> Spec:
    """The registered format; UnknownName, with the nearest name, for an unknown one."""
    return catalogue().get("report-format", name, where="--format")


def make_report(spec: Spec, tables: Sequence[Table]) -> str | bytes:
    """The tables in a format. Control characters are escaped, unless the format does that itself."""
    found: Any = spec.load()(tables)
    if isinstance(found, bytes):
        return found
    if not isinstance(found, str):
        raise BrokenPlugin(
            f"the report format {spec.name!r} of {spec.owner} doesn't return a report", expected="a text, or bytes",
            got=type(found).__name__, do="repair the plugin",
        )  # fmt: skip
    return found if spec.facts.escaped else escape_lines(found)


def escape_lines(text: str) -> str:
    """Escape all control characters except line breaks and tabs."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def print_report(spec: Spec, tables: Sequence[Table]) -> None:
    """Write the tables to standard output; UsageError for bytes on a terminal."""
    report = make_report(spec, tables)
    if isinstance(report, str):
        print(report.rstrip("\n"))
        return
    if sys.stdout.isatty():
        raise UsageError(
            f"the report format {spec.name!r} returns bytes, which a terminal can't show", where="--format",
            do=f"write them to a file: zigma-bench report --format {spec.name} > FILE",
        )  # fmt: skip
    sys.stdout.flush()
    sys.stdout.buffer.write(report)
    sys.stdout.buffer.flush()
