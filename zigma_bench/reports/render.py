"""A table as text: for a terminal, as Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zigma_bench.plan import Match, told
from zigma_bench.reports.table import Row, Statistic, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

FORMATS = ("terminal", "markdown", "csv", "json")
HEADINGS = {
    "train-images-per-second": "train images/s",
    "sample-images-per-second": "sample images/s",
    "train-step-peak-memory": "train memory GiB",
    "sample-peak-memory": "sample memory GiB",
}
GIB, BEFORE_METRICS = 2**30, ("role", "backbone", "scan", "seeds", "params M", "GFLOP", "scanned")
HIDDEN = ("-peak-memory-reserved", "-memory-on-device")  # in the records and in JSON; too much for a line


def to_json(tables: Sequence[Table]) -> str:
    """One document: `{"rows": [...]}`, every row with its suite and, where that has several, its data set."""
    rows = []
    for table in tables:
        for row in table.rows:
            data = asdict(row)
            facts = data.pop("facts")
            place = {"suite": table.suite, "data": table.data, "reference": table.reference}
            rows.append({**place, **data, **facts})
    return json.dumps({"rows": rows}, indent=1, allow_nan=False)


def to_csv(tables: Sequence[Table]) -> str:
    """One line a row and metric; a cell that a spreadsheet would run as a formula is quoted with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = (
        "suite",
        "data",
        "role",
        "backbone",
        "scan",
        "seed_count",
        "status",
        "smoke",
        "metric",
        "mean",
        "sd",
        "n",
        "unit",
    )
    writer.writerow((*head, "reason"))
    for table in tables:
        for row in table.rows:
            base = (table.suite, table.data, row.role, row.backbone, row.scan, row.seed_count, row.status, row.smoke)
            if not row.metrics:
                writer.writerow([_safe(value) for value in (*base, "", None, None, 0, "", row.reason)])
            for name, s in row.metrics.items():
                values = (*base, name, s.mean, s.sd, s.n, s.unit, s.reason or row.reason)
                writer.writerow([_safe(value) for value in values])
    return out.getvalue()


def to_markdown(tables: Sequence[Table]) -> str:
    """A Markdown table a suite, with its footer."""
    blocks = []
    for table in tables:
        names = _shown(table)
        head = [*BEFORE_METRICS, *(HEADINGS.get(name, name) for name in names)]
        lines = [f"### {_title(table)}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for row in table.rows:
            cells = [*_facts(row), *(_figure(row.metrics.get(name), row.seed_count) for name in names)]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        blocks.append("\n".join([*lines, "", *footer(table)]))
    return "\n\n".join(blocks)


def to_rich(table: Table) -> RichTable:
    """The table for a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    names = _shown(table)
    shown = RichTable(title=Text(_title(table)), title_justify="left", caption_justify="left")
    for heading in BEFORE_METRICS:
        left = heading in ("role", "backbone", "scan")  # a narrow terminal wraps a label and cuts none
        shown.add_column(heading, justify="left" if left else "right", overflow="fold")
    for name in names:
        shown.add_column(HEADINGS.get(name, name), justify="right")
    for row in table.rows:
        style = {"floor": "green", "ceiling": "yellow"}.get(row.role, "red" if row.status == "failed" else "")
        cells = [*_facts(row), *(_figure(row.metrics.get(name), row.seed_count) for name in names)]
        shown.add_row(*(Text(cell) for cell in cells), style=style)
    return shown


def footer(table: Table) -> list[str]:
    """What a reader must know beside the figures."""
    spent = ", ".join(f"{value:,} {key}" for key, value in table.budget.items())
    lines = [
        f"{table.sample_count:,} images a row against the {table.reference} split; budget {spent} a cell; "
        "mean ± standard deviation over seeds.",
        "floor: held-out real images; ceiling: the untrained network. GFLOP: one forward pass of one image by formula; "
        "scanned: tokens scanned a layer / L.",
    ]
    if len(table.machines) > 1:
        lines.append("These rows do not come from one machine: " + "; ".join(table.machines) + ".")
    else:
        lines += [f"Measured on {machine}." for machine in table.machines]
    lines += [f"{line}." for line in told(_matches(table))]
    if table.residual:
        lines.append(f"residual: {' and '.join(table.residual)}.")
    if table.smoke:
        lines.insert(0, "SMOKE RUN at toy scale: these figures mean nothing.")
    elif any(row.seed_count < 3 for row in table.rows if row.role == "cell"):
        lines.append("Fewer than three seeds: indicative, not a result.")
    lines += [
        f"{row.role} {row.backbone} {row.scan or ''}: {row.status}: {row.reason}" for row in table.rows if row.reason
    ]
    refused = {(n, s.reason) for r in table.rows for n, s in r.metrics.items() if s.reason and r.role == "cell"}
    return [*lines, *(f"{name}: {reason}" for name, reason in sorted(refused))]


def _matches(table: Table) -> dict[str, Match]:
    """The rows whose sizes were matched, by label."""
    rows = [row for row in table.rows if row.role == "cell" and row.facts["size_match"]]
    return {
        " · ".join(filter(None, (row.backbone, row.scan))): Match.model_validate(row.facts["size_match"])
        for row in rows
    }


def _title(table: Table) -> str:
    suite = table.suite if table.data is None else f"{table.suite} on {table.data}"
    return f"{suite}{' (smoke)' if table.smoke else ''}: {table.question}" if table.question else suite


def _shown(table: Table) -> list[str]:
    return [name for name in table.metric_names if not name.endswith(HIDDEN)]


def _facts(row: Row) -> list[str]:
    network = row.facts["parameters"] > 0
    seeds = str(row.seed_count) if row.status == "done" else f"{row.seed_count} ({row.status})"
    return [
        row.role,
        row.backbone or "",
        row.scan or "",
        seeds,
        f"{row.facts['parameters'] / 1e6:.2f}" if network else "",
        f"{row.facts['forward_flops'] / 1e9:.3g}" if network else "",
        f"{row.facts['scanned_ratio']:g}" if row.facts["scanned_ratio"] else "",
    ]


def _figure(statistic: Statistic | None, seeds: int) -> str:
    if statistic is None or statistic.mean is None:
        return "-"
    scale = GIB if statistic.unit == "bytes" else 1
    text = significant(statistic.mean / scale)
    spread = "" if statistic.sd is None else f" ± {significant(statistic.sd / scale, 2)}"
    return text + spread + (f" (n={statistic.n})" if statistic.n < seeds else "")


def significant(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, without an exponent where it is of ordinary size."""
    if value == 0 or not 1e-5 < abs(value) < 1e9:
        return f"{value:.{digits - 1}g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
