"""The files that a run leaves beside its records: the table as Markdown, and a sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zigma_bench.records.packed import read_packed
from zigma_bench.records.store import write_atomic
from zigma_bench.reports.formats import make_report, report_format
from zigma_bench.reports.sheet import make_sheet
from zigma_bench.reports.table import Table

MARKDOWN, SHEET = "table.md", "sheet.png"


def write_run_files(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """Write `table.md`, and `sheet.png` if the run has samples; returns the files. Equal files stay as they are.

    The sheet of a packed run whose samples were removed stays too, because a new one would show fewer of its rows.
    """
    report = make_report(report_format("markdown"), tables)
    assert isinstance(report, str), "Markdown is text"
    sheet = None if (folder / SHEET).is_file() and _has_removed_samples(folder) else make_sheet(folder)
    contents = {MARKDOWN: (report.rstrip("\n") + "\n").encode(), SHEET: sheet}
    files = {folder / name: content for name, content in contents.items() if content is not None}
    for path, content in files.items():
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    return list(files)


def _has_removed_samples(folder: Path) -> bool:
    """Whether a sample stage of the run is packed and has no folder any more."""
    places = read_packed(folder).documents
    return any("/sample-" in place and not (folder / place).is_dir() for place in places)
