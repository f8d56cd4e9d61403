"""Formats of reports: the built-in ones, those of plugins, and control characters of records are escaped in all of
them."""

from __future__ import annotations

import csv
import io
import json
from types import ModuleType

import pytest

from zigma_bench import hookimpl
from zigma_bench.errors import BrokenPlugin, UnknownName, UsageError
from zigma_bench.plugins.discovery import catalogue, specs_of
from zigma_bench.records.store import write_json
from zigma_bench.reports.formats import make_report, print_report, report_format
from zigma_bench.reports.table import read_tables
from zigma_bench.testing import report_of

RASTER = ("zigma", "raster")


def format_of(function):
    plugin = ModuleType("made")

    def register_report_formats(register):
        register("made", function)

    plugin.register_report_formats = hookimpl(register_report_formats)
    (spec,) = specs_of(plugin, "made", "made 1.0")
    return spec


def titles(tables):
    """The suites and their questions."""
    return "".join(f"{table.suite}\t{table.question}\n" for table in tables)


def packed(tables):
    """Bytes that are no text."""
    return b"\x89PNG\r\n"


def number(tables):
    """No report."""
    return len(tables)


def test_the_built_in_formats_come_in_through_the_hook():
    found = {spec.name: spec for spec in catalogue().report_formats if spec.owner == "zigma-bench"}
    assert set(found) == {"terminal", "markdown", "csv", "json"}
    for spec in found.values():
        report_of(spec).require()


def test_an_unknown_name_has_its_nearest():
    with pytest.raises(UnknownName, match=r"--format: no report-format is called 'cvs'.*did you mean 'csv'"):
        report_format("cvs")


def test_the_text_of_a_format_is_made_inert(make_store, capsys):
    folder = make_store({RASTER: [1.0]})
    stored = json.loads((folder / "table.json").read_text())
    write_json(folder / "table.json", {**stored, "question": "Why?\x1b[2J\r\u202e"})
    print_report(format_of(titles), read_tables(folder))
    assert capsys.readouterr().out == "toy\tWhy?\\x1b[2J\\r\\u202e\n"
    for name in ("terminal", "markdown", "csv", "json"):
        print_report(report_format(name), read_tables(folder))
        assert not set("\x1b\r\u202e") & set(capsys.readouterr().out)


def test_bytes_go_to_a_file_and_not_to_a_terminal(make_store, capfdbinary, monkeypatch):
    tables = read_tables(make_store({RASTER: [1.0]}))
    print_report(format_of(packed), tables)
    assert capfdbinary.readouterr().out == b"\x89PNG\r\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(
        UsageError, match=r"returns bytes, which a terminal can't show; .*: zigma-bench report --format made > FILE"
    ):
        print_report(format_of(packed), tables)


def test_what_is_no_report_is_a_fault_of_the_plugin():
    with pytest.raises(
        BrokenPlugin, match=r"'made' of made 1\.0 doesn't return a report; expected a text, or bytes; got 'int'"
    ):
        make_report(format_of(number), [])
    report = report_of(format_of(number))
    assert not report.ok


def test_counted_flops_are_marked_in_every_format(make_store):
    folder = make_store({RASTER: [1.0], ("mine", None): [2.0]})
    stored = json.loads((folder / "table.json").read_text())
    for cell in stored["cells"]:
        cell["flops_by"] = "counter" if cell["backbone"] == "mine" else "formula"
    write_json(folder / "table.json", stored)
    tables = read_tables(folder)
    made = {name: make_report(report_format(name), tables) for name in ("terminal", "markdown", "csv", "json")}
    for name in ("terminal", "markdown"):
        assert [("§" in line) for line in made[name].splitlines() if "mine" in line or "raster" in line][:2] == [
            False,
            True,
        ]
        assert "§ FLOPs measured by PyTorch's counter" in made[name]
    lines = list(csv.DictReader(io.StringIO(made["csv"])))
    for rows in (lines, json.loads(made["json"])["rows"]):
        assert {row["backbone"]: row["flops_by"] for row in rows} == {"zigma": "formula", "mine": "counter"}
    assert "§" not in make_report(report_format("markdown"), read_tables(make_store({RASTER: [1.0]})))
