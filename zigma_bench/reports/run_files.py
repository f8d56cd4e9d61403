"""The files that a run leaves beside its records: the table as Markdown, and a sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zigma_bench.records.store import write_atomic
from zigma_bench.reports.formats import make_report, report_format
from zigma_bench.reports.sheet import make_sheet
from zigma_bench.reports.table import Table

MARKDOWN, SHEET = "table.md", "sheet.png"


def write_run_files(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """Write `table.md`, and `sheet.png` if the run has samples; returns the files. Equal files stay as they are."""
    report = make_report(report_format("markdown"), tables)
    assert isinstance(report, str), "Markdown is text"
    contents = {MARKDOWN: (report.rstrip("\n") + "\n").encode(), SHEET: make_sheet(folder)}
    files = {folder / name: content for name, content in contents.items() if content is not None}
    for path, content in files.items():
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    return list(files)
