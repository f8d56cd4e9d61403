"""The second table of a suite: intervals over seeds and differences to the baseline, one line per metric and row."""

from __future__ import annotations

from zigma_bench.reports.compare import Difference
from zigma_bench.reports.figures import (
    ARROWS,
    SIGNIFICANT,
    UNTESTED,
    format_difference,
    format_interval,
    format_p,
    metric_heading,
    shift_interval,
    untrained_mark,
)
from zigma_bench.reports.statistics import LEAST_SEEDS, LEVEL
from zigma_bench.reports.table import Statistic, Table, TableRow

HEADINGS = ("metric", "row", "mean, 95%", "difference", "difference, 95%", "pairs", "p", "Holm p")


def has_differences(table: Table) -> bool:
    """Whether there is a second table: seeds to pair, a baseline, and no smoke run."""
    several = any(row.seed_count > 1 for row in table.rows if row.role == "cell")
    return several and table.baseline_row is not None and not table.smoke


def differences_title(table: Table) -> str:
    base = table.baseline_row
    assert base is not None
    return f"{table.suite}: intervals over seeds, and differences to {row_label(base)}"


def difference_lines(table: Table) -> list[tuple[str, ...]]:
    """The text cells of every line, in the order of `HEADINGS`."""
    base = table.baseline_row
    assert base is not None
    return [
        _line(name, row, row.metrics[name])
        for name, statistic in base.metrics.items()
        for row in table.rows
        if statistic.stage == "quality" and row.role == "cell" and name in row.metrics
    ]


def row_label(row: TableRow) -> str:
    """The label of a row: its backbone, its scan with varied values, and the setting in which it was timed."""
    setting = row.setting
    timed = f", {setting['backend']}, {setting['tokens']} tokens, batch {setting['batch']}" if setting else ""
    return " ".join(filter(None, (row.backbone, row.scan_words))) + timed


def difference_notes(table: Table) -> list[str]:
    """The lines of the footer about seeds, directions and tests."""
    return [*_direction_notes(table), *(_test_notes(table) if has_differences(table) else ()), *_seed_notes(table)]


def _line(name: str, row: TableRow, statistic: Statistic) -> tuple[str, ...]:
    first = (metric_heading(name, statistic), row_label(row) + untrained_mark(statistic), format_interval(statistic))
    difference = row.differences.get(name)
    if difference is None:
        return (*first, "baseline" if row.baseline else "-", "-", "-", "-", "-")
    p = format_p(difference.p) if difference.p is not None else _verdict_text(difference)
    against = (
        format_difference(difference, statistic.unit),
        shift_interval(difference, statistic.unit),
        str(difference.n),
    )
    return (*first, *against, p, format_p(difference.p_holm))


def _verdict_text(difference: Difference) -> str:
    words = {"untested": "not tested", "declared": "see tests"}
    return words.get(difference.verdict, difference.verdict)


def _direction_notes(table: Table) -> list[str]:
    names = dict.fromkeys((n, s.better, s.stage) for row in table.rows for n, s in row.metrics.items())
    known = {b for _, b, _ in names if b}
    unknown = sorted(n for n, b, stage in names if b is None and stage == "quality")
    text = "; ".join(f"{ARROWS[b].strip()} {b} is better" for b in ("lower", "higher") if b in known)
    found = [f"{text}."] if text else []
    if unknown:
        found.append(f"{', '.join(unknown)}: no such metric is registered here, so the better direction is unknown.")
    return found


def _test_notes(table: Table) -> list[str]:
    base = table.baseline_row
    assert base is not None
    found = [d for row in table.rows for d in row.differences.values()]
    if not found:
        return [f"No differences: no other row has a finished seed in common with {row_label(base)}, the baseline."]
    notes = ["95%: the t-interval over seeds; nothing is resampled."]
    if table.declared is not None:
        return [*notes, "The suite declares its tests, so only those are made."]
    if family := _families(table):
        notes.append(
            f"{SIGNIFICANT} differs from {row_label(base)}: paired t-test over common seeds, p < {LEVEL} after Holm's "
            f"correction for all comparisons of the metric ({family})."
        )
    reasons = sorted({d.reason for d in found if d.verdict == "untested" and d.reason})
    return notes + [f"{UNTESTED} printed, not tested: {reason}." for reason in reasons]


def _families(table: Table) -> str:
    """The number of tested comparisons of each metric, for which p is corrected."""
    tested = [name for row in table.rows for name, d in row.differences.items() if d.p is not None]
    return ", ".join(f"{name} {tested.count(name)}" for name in dict.fromkeys(tested))


def _seed_notes(table: Table) -> list[str]:
    rows = [row for row in table.rows if row.role == "cell" and row.seed_count]
    few = [row for row in rows if row.seed_count < LEAST_SEEDS]
    if table.smoke or table.timed_alone or not rows or table.declared is not None:
        return []  # declared tests say themselves at how many seeds they are made
    if not few:
        return ["Every finished row has three seeds or more: results."]
    if len(few) == len(rows):
        return ["Fewer than three seeds: indicative, not a result."]
    named = ", ".join(f"{row_label(row)} ({row.seed_count})" for row in few)
    return [f"Rows of three seeds or more are results; fewer are indicative, not a result: {named}."]
