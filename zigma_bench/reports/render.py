"""Render a table as Markdown, CSV or JSON, or for a terminal, with the cells and the footer that these formats
share."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zigma_bench.escaping import csv_cell, markdown, visible
from zigma_bench.plan import Match, describe_matches
from zigma_bench.records.runs import MAIN, SMOKE
from zigma_bench.records.table_file import SelectedValue
from zigma_bench.reports import differences
from zigma_bench.reports.better import NO_BETTER, explain_figure
from zigma_bench.reports.compare import Difference
from zigma_bench.reports.crossings import find_crossings
from zigma_bench.reports.figures import COUNTED, UNTRAINED, format_figure, metric_heading, significance_mark
from zigma_bench.reports.overfitting import overfitting_notes
from zigma_bench.reports.study import Study, study_of
from zigma_bench.reports.study_text import lines_of_tests, study_headings, study_json, study_notes, study_title
from zigma_bench.reports.table import Table, TableRow

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

SETTING = ("backend", "tokens", "batch")  # of the rows of an efficiency suite
SHOWN_ROWS = 3  # unfinished rows that the footer names for each reason
SHOWN_RUNS = 10  # the most other runs that a footer names
HEADINGS = {
    "train-images-per-second": "train images/s",
    "sample-images-per-second": "sample images/s",
    "forward-images-per-second": "forward images/s",
    "forward-backward-images-per-second": "fwd+bwd images/s",
    "latency": "latency s",
    "train-step-peak-memory": "train memory GiB",
    "sample-peak-memory": "sample memory GiB",
    "forward-peak-memory": "forward memory GiB",
    "forward-backward-peak-memory": "fwd+bwd memory GiB",
    "forward-matmul-flops-per-second": "forward TFLOP/s",
    "forward-backward-matmul-flops-per-second": "fwd+bwd TFLOP/s",
    "train-step-matmul-flops-per-second": "train TFLOP/s",
    "ceiling-matmul-flops-per-second": "matmul TFLOP/s",
    "scan-bytes-per-second": "scan GB/s",
    "ceiling-copy-bytes-per-second": "copy GB/s",
}
STYLES = {"floor": "green", "reconstruction": "green", "ceiling": "yellow"}
BEFORE_METRICS = ("role", "backbone", "scan", "seeds", "params M", "GFLOP", "scanned")
CSV_ROW = (
    "suite", "run", "data", "role", "backbone", "scan", *SETTING, "seed_count", "status", "smoke", "forward_flops",
    "flops_by",
)  # fmt: skip
CSV_STATISTIC = ("metric", "mean", "sd", "n", "unit", "ci_low", "ci_high", "better", "extractor", "against_untrained")
CSV_DIFFERENCE = ("mean", "sd", "n", "ci_low", "ci_high", "t", "p", "p_holm", "verdict", "reason")
HIDDEN = (
    "-peak-memory-reserved", "-memory-on-device", "-joules-per-image", "latency-peak-memory",
    "latency-matmul-flops-per-second", "sample-matmul-flops-per-second",
)  # fmt: skip  # too many for a table; in JSON and the records


def to_json(tables: Sequence[Table]) -> str:
    """One document: `{"runs": [...], "rows": [...]}`; every row names its suite, its run and, if the suite has several,
    its data set. `studies` has the declared statistics of each table whose suite declares some."""
    rows = []
    for table in tables:
        for row in table.rows:
            data = asdict(row)
            facts = data.pop("facts")
            for name, statistic in row.metrics.items():
                data["metrics"][name]["reason"] = explain_figure(statistic)
            place = {"suite": table.suite, "run": table.run, "data": table.data, "reference": table.reference}
            rows.append({**place, **data, **facts})
    studies = [study_json(table, study) for table in tables if (study := study_of(table)) is not None]
    return json.dumps(
        {"runs": _runs(tables), "rows": rows} | ({"studies": studies} if studies else {}), indent=1, allow_nan=False
    )


def _runs(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Each run of the tables, with its options and the names of the suite's other runs."""
    runs = {(table.suite, table.run): table for table in tables}
    keys = ("suite", "run", "smoke", "options", "other_runs")
    return [{key: getattr(table, key) for key in keys} for table in runs.values()]


def to_csv(tables: Sequence[Table]) -> str:
    """One line per row and metric. A cell that a spreadsheet would run as a formula gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*CSV_ROW, *CSV_STATISTIC, *(f"difference_{key}" for key in CSV_DIFFERENCE), "reason"))
    for table in tables:
        for row in table.rows:
            setting = (row.setting.get(key, "") for key in SETTING)
            names = (table.suite, table.run, table.data, row.role, row.backbone, row.scan_words or None, *setting)
            flops = (row.facts["forward_flops"], row.facts["flops_by"])
            base = (*names, row.seed_count, row.status, row.smoke, *flops)
            for name, s in row.metrics.items():
                values = (name, *(getattr(s, key) for key in CSV_STATISTIC[1:]))
                against = row.differences.get(name)
                shift = [None if against is None else getattr(against, key) for key in CSV_DIFFERENCE]
                writer.writerow(
                    [csv_cell(value) for value in (*base, *values, *shift, explain_figure(s) or row.reason)]
                )
            if not row.metrics:
                none = ("", None, None, 0, *[None] * (len(CSV_STATISTIC) + len(CSV_DIFFERENCE) - 4))
                writer.writerow([csv_cell(value) for value in (*base, *none, row.reason)])
    return out.getvalue()


def to_markdown(tables: Sequence[Table]) -> str:
    """One Markdown table per suite, with its footer."""
    blocks = []
    for table in tables:
        names = _shown(table)
        head = _head(table, names)
        lines = [
            f"### {markdown(_title(table))}",
            "",
            *_markdown(head, [_cells(table, row, names) for row in table.rows]),
            "",
        ]
        if differences.has_differences(table):
            second = _markdown(differences.HEADINGS, differences.difference_lines(table))
            lines += [f"#### {markdown(differences.differences_title(table))}", "", *second, ""]
        if (study := study_of(table)) is not None:
            third = _markdown(study_headings(study), lines_of_tests(study))
            lines += [f"#### {markdown(study_title(table, study))}", "", *third, ""]
        blocks.append("\n\n".join(["\n".join(lines).rstrip("\n"), "\n".join(map(markdown, table_footer(table)))]))
    return "\n\n".join(blocks)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(map(_markdown_cell, head)) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(_markdown_cell, cells)) + " |" for cells in rows]


def _markdown_cell(text: str) -> str:
    """A cell of a table. A sign at its start isn't escaped, because it can't begin a list there."""
    return markdown(text) if text[:1] not in ("-", "+") else text[0] + markdown(text[1:])


def to_rich(table: Table) -> RichTable:
    """The table for a terminal."""
    names = _shown(table)
    head = _head(table, names)
    cells = [_cells(table, row, names) for row in table.rows]
    shown = _empty_table(_title(table), head, labels=("role", "backbone", "scan"))
    for row, line in zip(table.rows, cells, strict=True):
        style = STYLES.get(row.role, "red" if row.status == "failed" else "")
        shown.add_row(*_to_texts(line), style=style)
    return shown


def differences_to_rich(table: Table) -> RichTable:
    """The second table for a terminal, with one section per metric."""
    lines = differences.difference_lines(table)
    shown = _empty_table(differences.differences_title(table), differences.HEADINGS[1:], labels=("row",))
    for metric, group in itertools.groupby(lines, key=lambda line: line[0]):
        shown.add_section()
        shown.add_row(*_to_texts([metric]), style="bold")
        for line in group:
            shown.add_row(*_to_texts(line[1:]))
    return shown


def study_to_rich(table: Table, study: Study) -> RichTable:
    """The declared tests for a terminal, with one section per contrast."""
    headings, lines = study_headings(study), lines_of_tests(study)
    shown = _empty_table(study_title(table, study), headings[1:], labels=("metric", "verdict"))
    for contrast, group in itertools.groupby(lines, key=lambda line: line[0]):
        shown.add_section()
        shown.add_row(*_to_texts([contrast]), style="bold")
        for line in group:
            shown.add_row(*_to_texts(line[1:]))
    return shown


def _empty_table(title: str, head: Sequence[str], *, labels: Sequence[str]) -> RichTable:
    """An empty table. On a narrow terminal, long cells are wrapped instead of cut."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=Text(visible(title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.padding = (0, 0, 0, 1)
    for heading in head:
        shown.add_column(Text(visible(heading)), justify="left" if heading in labels else "right", overflow="fold")
    return shown


def _to_texts(cells: Sequence[str]) -> list[Text]:
    from rich.text import Text

    return [Text(visible(cell)) for cell in cells]


def table_footer(table: Table) -> list[str]:
    """The lines of the footer: what a reader must know to interpret the values."""
    lines = list(TIMED) if table.timed_alone else _protocol(table)
    if len(table.machines) > 1:
        lines.append("The rows were measured on different machines: " + "; ".join(table.machines) + ".")
    else:
        lines += [f"Measured on {machine}." for machine in table.machines]
    lines += [f"{line}." for line in describe_matches(_matches(table))]
    if table.residual:
        lines.append(f"residual: {' and '.join(table.residual)}.")
    if table.smoke:
        lines.insert(0, "SMOKE RUN at toy scale: these values are meaningless.")
    lines += differences.difference_notes(table)
    if (study := study_of(table)) is not None:
        lines += study_notes(study)
    lines += [f"{crossing}." for crossing in find_crossings(table)]
    lines += [_selection_line(choice) for choice in table.selected]
    lines += [f"{row}: {reason}; run the suite again" for row, reason in table.waiting.items()]
    lines += overfitting_notes(table)
    lines += _unfinished(table)
    if any(row.role == "cell" and counted(row) for row in table.rows):
        lines.append(f"{COUNTED} {COUNTED_FLOPS}")
    if any(s.against_untrained == "no better" for row in table.rows for s in row.metrics.values()):
        lines.append(f"{UNTRAINED} {NO_BETTER} (the ceiling) on this metric.")
    return [*lines, *_refusals(table), *_about_runs(table)]


def _selection_line(choice: SelectedValue) -> str:
    """How the value of a row was chosen: the mean loss of each candidate on the tuning part."""
    losses = (f"{words} {'failed' if loss is None else format(loss, '.5g')}" for words, loss in choice.losses.items())
    edge = ", at the edge of the range: a better value may lie outside" if choice.at_edge else ""
    return f"{choice.row}: {choice.chosen} has the lowest loss on the tuning part ({'; '.join(losses)}){edge}."


def _unfinished(table: Table) -> list[str]:
    """Why rows are not done; rows with one reason share a line, which names the first of them."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        if row.reason:
            label = f"{row.role} {differences.row_label(row)}"
            reasons.setdefault((row.status, row.reason), []).append(label)
    lines = []
    for (status, reason), labels in reasons.items():
        more = len(labels) - SHOWN_ROWS
        named = "; ".join(labels[:SHOWN_ROWS]) + (f"; and {more} more rows" if more > 0 else "")
        lines.append(f"{named}: {status}: {reason}")
    return lines


def _about_runs(table: Table) -> list[str]:
    """What distinguishes this run, and the other runs of the suite."""
    own = [f"run {table.run}: {', '.join(table.options)}."] if table.options else []
    if not table.other_runs:
        return own
    shown, more = table.other_runs[:SHOWN_RUNS], len(table.other_runs) - SHOWN_RUNS
    names = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    return [*own, f"Other runs of this suite: {names}; `report --name RUN` shows one of them."]


def _refusals(table: Table) -> list[str]:
    """Why a metric has no value or an unreliable one, and in which rows, unless in all."""
    rows = [row for row in table.rows if row.role == "cell"]
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, statistic in row.metrics.items():
            if statistic.reason and not name.endswith(HIDDEN):
                found.setdefault((name, statistic.reason), []).append(differences.row_label(row))
    places = {key: "" if len(named) == len(rows) else f" of {', '.join(named)}" for key, named in found.items()}
    return [f"{name}{places[name, reason]}: {reason}" for name, reason in sorted(found)]


def _protocol(table: Table) -> list[str]:
    varied = {key for row in table.rows for key in row.varied}
    spent = ", ".join(f"{value:,} {key}" for key, value in table.budget.items())
    spent = "as in the rows" if any(key.startswith("budget.") for key in varied) else spent
    extrapolated = [name for name in table.metric_names if name.endswith("-infinity")]
    return [
        f"{table.sample_count:,} images per row against the {table.reference} split; budget {spent} per cell; "
        "mean ± standard deviation over seeds.",
        "floor: held-out real images; ceiling: the untrained network. GFLOP: one forward pass of one image by formula; "
        "scanned: tokens scanned per layer / L.",
        *([RECONSTRUCTION] if any(row.role == "reconstruction" for row in table.rows) else []),
        *(f"{name} is extrapolated to infinitely many samples; it is not measured directly." for name in extrapolated),
    ]


COUNTED_FLOPS = (
    "FLOPs measured by PyTorch's counter: matrix products, convolutions and attention only. There is no formula, so "
    "they may miss operators that the formulas of other rows count, such as a scan."
)
RECONSTRUCTION = (
    "Networks see latents. reconstruction: the floor's images, encoded and decoded (for fid: rFID, against the suite's "
    "reference)."
)
TIMED = [
    "Nothing was trained. GFLOP: one forward pass of one image by formula; scanned: tokens scanned per layer / L; "
    "latency: one image.",
    "TFLOP/s: FLOPs of all operators except the scan, by formula, divided by the whole time; for comparison, a large "
    "matrix product. GB/s of the scan: its least possible bytes divided by the time of the forward scan alone; for "
    "comparison, a copy.",
]


def _matches(table: Table) -> dict[str, Match]:
    """The rows whose sizes were matched, by label."""
    rows = [row for row in table.rows if row.role == "cell" and row.facts["size_match"]]
    return {
        " · ".join(filter(None, (row.backbone, row.scan))): Match.model_validate(row.facts["size_match"])
        for row in rows
    }


def counted(row: TableRow) -> str:
    """The mark of FLOPs that PyTorch's counter measured."""
    return f" {COUNTED}" if row.facts["flops_by"] == "counter" else ""


def _title(table: Table) -> str:
    run = "" if table.run in (MAIN, SMOKE) else f" · {table.run}"
    suite = f"{table.suite}{run}" + ("" if table.data is None else f" on {table.data}")
    return f"{suite}{' (smoke)' if table.smoke else ''}: {table.question}" if table.question else suite


def _shown(table: Table) -> list[str]:
    return [name for name in table.metric_names if not name.endswith(HIDDEN)]


def _head(table: Table, names: Sequence[str]) -> list[str]:
    """The headings of the columns, including the setting of timed rows."""
    setting = SETTING if table.timed_alone else ()
    return [*BEFORE_METRICS, *setting, *(_heading(table, name) for name in names)]


def _heading(table: Table, name: str) -> str:
    """The heading of a metric: its name, the size of its extractor, and an arrow for lower or higher is better."""
    statistic = next(row.metrics[name] for row in table.rows if name in row.metrics)
    return metric_heading(HEADINGS.get(name, name), statistic)


def _cells(table: Table, row: TableRow, names: Sequence[str]) -> list[str]:
    """A row's cells; a value has the mark of its difference if there is a second table."""
    against = row.differences if differences.has_differences(table) else dict[str, Difference]()
    setting = (str(row.setting[key]) for key in SETTING) if table.timed_alone else ()
    figures = (format_figure(row.metrics.get(n), row.seed_count) + significance_mark(against.get(n)) for n in names)
    return [*_facts(row), *setting, *figures]


def _facts(row: TableRow) -> list[str]:
    network = row.facts["parameters"] > 0
    seeds = str(row.seed_count) if row.status == "done" else f"{row.seed_count} ({row.status})"
    return [
        row.role,
        row.backbone or "",
        ", ".join(filter(None, (row.scan_words, row.facts.get("selected")))),
        seeds,
        f"{row.facts['parameters'] / 1e6:.2f}" if network else "",
        f"{row.facts['forward_flops'] / 1e9:.3g}{counted(row)}" if network else "",
        f"{row.facts['scanned_ratio']:g}" if row.facts["scanned_ratio"] else "",
    ]
