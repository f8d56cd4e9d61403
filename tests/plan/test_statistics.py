"""Declared tests name rows and metrics of the plan, and change nothing else in it."""

from __future__ import annotations

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.plan import make_plan
from zigma_bench.plan.statistics import metrics_of, resolve_family, resolve_rows
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import Statistics, load_suite

PLACE = "quality: [val-loss]"
LABELS = ["zigma raster", "zigma zigzag paths=8", "zigma [odd] raster", "dit"]


def plan(write_suite, text="", smoke=False):
    return make_plan(*load_suite(write_suite((PLACE, f"{PLACE}\n{text}"))), catalogue(), smoke=smoke)


def test_rows_are_named_by_label_or_pattern():
    assert resolve_rows(["zigma raster"], LABELS, "") == ("zigma raster",)
    assert resolve_rows(["* raster", "dit"], LABELS, "") == ("zigma raster", "zigma [odd] raster", "dit")
    assert resolve_rows(["zigma [odd] raster"], LABELS, "") == ("zigma [odd] raster",)
    with pytest.raises(UsageError, match="did you mean 'zigma raster'"):
        resolve_rows(["zigma rastr"], LABELS, "here")


def test_the_family_of_the_baseline_is_every_other_row():
    family = resolve_family(Statistics(primary="val-loss"), LABELS, "zigma raster")
    assert [(one.rows, one.against) for one in family] == [((label,), ("zigma raster",)) for label in LABELS[1:]]
    assert resolve_family(Statistics(primary="val-loss"), LABELS, "absent") == []


def test_the_primary_metric_comes_first():
    assert metrics_of(Statistics(primary="b"), ["a", "b", "c"]) == ("b", "a", "c")
    assert metrics_of(Statistics(primary="b", secondary=("c",)), ["a", "b", "c"]) == ("b", "c")


def test_a_declaration_changes_no_identity(write_suite):
    with_tests = plan(write_suite, "statistics: {primary: val-loss}")
    assert with_tests.cells == plan(write_suite).cells


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{primary: val-los}", ["statistics.primary", "'val-los'", "did you mean 'val-loss'"]),
        (
            "{primary: val-loss, secondary: [fid]}",
            ["statistics.secondary", "doesn't measure", "expected one of val-loss"],
        ),
        ("{primary: val-loss, margin: {fid: {difference: 1.0, reason: an equal gain}}}", ["statistics.margin.fid"]),
        (
            "{primary: val-loss, family: {x: {row: dit, against: zigma rastr}}}",
            ["statistics.family.x", "'zigma raster'"],
        ),
        ("{primary: val-loss, family: {x: {row: '*', against: dit}}}", ["both sides of a contrast", "narrower"]),
        ("{primary: val-loss, draws: {x: 'y*'}}", ["statistics.draws.x", "a row that the suite doesn't have"]),
        ("{primary: val-loss, scales: {a: 'dit', b: 'di'}}", ["statistics.scales.b", "did you mean 'dit'"]),
        ("{primary: val-loss, multiplier: {arms: {a: dit, b: q}, against: a}}", ["statistics.multiplier.arms.b"]),
    ],
)
def test_what_the_suite_does_not_have_is_refused(write_suite, text, words):
    with pytest.raises(UsageError) as caught:
        plan(write_suite, f"statistics: {text}")
    for word in words:
        assert word in str(caught.value)


def test_a_smoke_run_tests_nothing(write_suite):
    """At toy scale labels change, so patterns need not match."""
    assert plan(write_suite, "statistics: {primary: val-loss, draws: {x: 'y*'}}", smoke=True).cells
