"""Find the rows and the metrics that a suite's declared tests name, among the labels of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from zigma_bench.errors import UsageError, names_near, nearest
from zigma_bench.plan.cells import Cell
from zigma_bench.suite import Contrast, Statistics, Suite, YamlSource

Where = Callable[..., str]
NamedRows = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class RowContrast:
    """A contrast by the labels of its rows: the mean of `rows` minus the mean of `against`, for each seed."""

    name: str
    rows: tuple[str, ...]
    against: tuple[str, ...]


def row_label(backbone: str | None, scan: str | None) -> str:
    """The label by which tests name a row: its backbone and its scan."""
    return " ".join(filter(None, (backbone, scan)))


def resolve_rows(patterns: Sequence[str], labels: Sequence[str], where: str) -> tuple[str, ...]:
    """The labels that some patterns match, in the order of the table; UsageError for a pattern that matches none."""
    for pattern in patterns:
        if not any(_matches(label, pattern) for label in labels):
            raise UsageError(
                "the tests name a row that the suite doesn't have", where=where, got=pattern,
                expected=f"one of {names_near(pattern, labels)}, or a pattern with * that matches one",
                nearest=nearest(pattern, labels),
            )  # fmt: skip
    return tuple(label for label in labels if any(_matches(label, pattern) for pattern in patterns))


def _matches(label: str, pattern: str) -> bool:
    return label == pattern or fnmatchcase(label, pattern)


def resolve_family(
    declared: Statistics, labels: Sequence[str], baseline: str, where: Where = lambda *_: "statistics"
) -> list[RowContrast]:
    """The contrasts of the declared family among the rows of a table.

    UsageError for a pattern that matches no row, and for a row on both sides of a contrast.
    """
    if declared.family == "baseline":
        return baseline_family(labels, baseline)
    return [_resolve_contrast(name, one, labels, where) for name, one in declared.family.items()]


def baseline_family(labels: Sequence[str], baseline: str) -> list[RowContrast]:
    """Every row against the row of the baseline; no contrast without it."""
    others = [label for label in labels if label != baseline] if baseline in labels else []
    return [RowContrast(f"{label} - {baseline}", (label,), (baseline,)) for label in others]


def _resolve_contrast(name: str, one: Contrast, labels: Sequence[str], where: Where) -> RowContrast:
    place = where("statistics", "family", name)
    found = RowContrast(name, resolve_rows(one.row, labels, place), resolve_rows(one.against, labels, place))
    if both := set(found.rows) & set(found.against):
        raise UsageError(
            "a row is on both sides of a contrast", where=place, got=min(both), do="make the patterns narrower"
        )
    return found


def metrics_of(declared: Statistics, quality: Sequence[str]) -> tuple[str, ...]:
    """The metrics of a study, the primary one first. `quality`: all that its table has."""
    others = [name for name in quality if name != declared.primary]
    return (declared.primary, *(others if declared.secondary is None else declared.secondary))


def check_statistics(suite: Suite, cells: Sequence[Cell], baseline: Cell, source: YamlSource) -> None:
    """UsageError if the declared tests name a row or a metric that the cells on one data set don't have."""
    declared = suite.statistics
    if declared is None:
        return
    selected = None if suite.select is None else suite.select.over
    if declared.family == "baseline" and set(suite.vary) - {selected}:
        raise UsageError(
            "a suite that varies keys has a baseline for each of their values",
            where=source.where("statistics", "family"),
            do="declare the contrasts, such as NAME: {row: ROW, against: ROW}",
        )
    labels = list(dict.fromkeys(row_label(c.backbone_label, c.scan_words) for c in cells if c.role == "cell"))
    resolve_family(declared, labels, row_label(baseline.backbone_label, baseline.scan_words), source.where)
    named: dict[tuple[str, ...], NamedRows] = {
        ("draws",): declared.draws,
        ("scales",): declared.scales,
    }
    if declared.multiplier is not None:
        named["multiplier", "arms"] = declared.multiplier.arms
    for place, groups in named.items():
        for name, patterns in groups.items():
            resolve_rows(patterns, labels, source.where("statistics", *place, name))
    _check_metrics(declared, [metric.name for metric in suite.quality], source)


def _check_metrics(declared: Statistics, quality: Sequence[str], source: YamlSource) -> None:
    """UsageError for a metric that the suite doesn't measure. An option may lengthen the name of a measured metric."""
    multiplier = () if declared.multiplier is None else ((("multiplier", "metric"), declared.multiplier.metric),)
    named = [
        (("primary",), declared.primary), *((("secondary",), name) for name in declared.secondary or ()),
        *((("margin", name), name) for name in declared.margin), *multiplier,
    ]  # fmt: skip
    for place, name in named:
        if not any(name == one or name.startswith(f"{one}-") for one in quality):
            raise UsageError(
                "the tests name a metric that the suite doesn't measure", where=source.where("statistics", *place),
                expected=f"one of {', '.join(quality) or '(quality lists none)'}", got=name,
                nearest=nearest(name, quality),
            )  # fmt: skip
