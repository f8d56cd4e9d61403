"""Format a value, an interval, a difference and a p value as text."""

from __future__ import annotations

import math
import re

from zigma_bench.reports.compare import Difference
from zigma_bench.reports.table import Statistic

SCALES = {"bytes": 2.0**30, "FLOP/s": 1e12, "B/s": 1e9}  # GiB, TFLOP/s, GB/s
SIGNIFICANT, UNTESTED, UNTRAINED, COUNTED = "*", "†", "‡", "§"
SIZED = re.compile(r"(efflite\d+)-(\d+)")  # an extractor whose size in pixels is an option
ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
SMALLEST_P = 1e-4


def format_figure(statistic: Statistic | None, seeds: int) -> str:
    """Mean ± standard deviation, with the number of seeds if it is less than that of the row, and the mark of a value
    that is no better than the untrained network's."""
    if statistic is None or statistic.mean is None:
        return "-"
    scale = _scale(statistic.unit)
    text = round_significant(statistic.mean / scale)
    spread = "" if statistic.sd is None else f" ± {round_significant(statistic.sd / scale, 2)}"
    return text + spread + (f" (n={statistic.n})" if statistic.n < seeds else "") + untrained_mark(statistic)


def untrained_mark(statistic: Statistic) -> str:
    """The mark of a value that is no better than the untrained network's."""
    return f" {UNTRAINED}" if statistic.against_untrained == "no better" else ""


def metric_heading(name: str, statistic: Statistic) -> str:
    """A metric's name as a heading: with the image size of its extractor in pixels, and an arrow for lower or higher is
    better."""
    sized = SIZED.fullmatch(statistic.extractor or "")
    if sized is not None:
        name = name.replace(sized[1], f"{sized[1]}@{sized[2]}")
    return name + ARROWS[statistic.better]


def format_interval(statistic: Statistic) -> str:
    """The 95% t-interval of a mean."""
    if statistic.ci_low is None or statistic.ci_high is None:
        return "-"
    scale = _scale(statistic.unit)
    return f"{round_significant(statistic.ci_low / scale)} to {round_significant(statistic.ci_high / scale)}"


def significance_mark(difference: Difference | None) -> str:
    """The sign that the footer explains: tested and significant, or not tested."""
    if difference is None or difference.verdict not in ("significant", "untested"):
        return ""
    return f" {SIGNIFICANT if difference.verdict == 'significant' else UNTESTED}"


def format_difference(difference: Difference, unit: str) -> str:
    """The mean difference and its mark."""
    return format_shift(difference.mean, unit) + significance_mark(difference)


def shift_interval(difference: Difference, unit: str) -> str:
    """The 95% t-interval of the mean difference."""
    if difference.ci_low is None or difference.ci_high is None:
        return "-"
    return f"{format_shift(difference.ci_low, unit)} to {format_shift(difference.ci_high, unit)}"


def format_shift(value: float | None, unit: str) -> str:
    """A difference with its sign."""
    return "-" if value is None else _signed(value / _scale(unit))


def format_p(p: float | None) -> str:
    """A p value with two digits."""
    return "-" if p is None else f"<{SMALLEST_P:.4f}" if p < SMALLEST_P else f"{p:.2g}"


def round_significant(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits, without an exponent unless it is very large or small."""
    if value == 0 or not 1e-5 < abs(value) < 1e9:
        return f"{value:.{digits - 1}g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def _scale(unit: str) -> float:
    return SCALES.get(unit, 1)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + round_significant(value, 3)
