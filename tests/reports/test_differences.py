"""Differences to the baseline, from stored records with known answers to the rendered table."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys

import pytest
from rich.console import Console

from zigma_bench.reports import differences
from zigma_bench.reports.render import differences_to_rich, table_footer, to_csv, to_json, to_markdown, to_rich
from zigma_bench.reports.table import read_table

RASTER, ZIGZAG, HILBERT, FOUR = (("zigma", s) for s in ("raster", "zigzag paths=8", "hilbert paths=8", "cross paths=4"))
# To raster: zigzag -1, -2, -3 and hilbert +1, -1, +0.3
KNOWN = {RASTER: [10.0, 11.0, 12.0], ZIGZAG: [9.0, 9.0, 9.0], HILBERT: [11.0, 10.0, 12.3]}


def rows(table):
    return {(row.backbone, row.scan): row for row in table.rows}


def test_known_differences(make_store):
    found = rows(read_table(make_store(KNOWN)))
    assert found[RASTER].baseline and not found[RASTER].differences
    zigzag, hilbert = (found[row].differences["fd-efflite0"] for row in (ZIGZAG, HILBERT))
    assert (zigzag.mean, zigzag.sd, zigzag.n) == (-2.0, 1.0, 3)
    t = 2 * math.sqrt(3)  # two degrees of freedom: p = 1 - t / sqrt(t^2 + 2), and the interval's t is 4.302653
    p = 1 - t / math.sqrt(t * t + 2)
    assert (zigzag.t, zigzag.p) == (pytest.approx(-t), pytest.approx(p))
    assert (zigzag.ci_low, zigzag.ci_high) == (pytest.approx(-4.484138), pytest.approx(0.484138))
    assert zigzag.p_holm == pytest.approx(2 * p)  # the smaller of two
    assert hilbert.p > zigzag.p
    assert hilbert.p_holm == pytest.approx(max(2 * p, hilbert.p))
    assert {zigzag.verdict, hilbert.verdict} == {"not significant"}
    raster = found[RASTER].metrics["fd-efflite0"]
    assert (raster.ci_low, raster.ci_high) == (pytest.approx(11 - 2.484138), pytest.approx(11 + 2.484138))
    assert (raster.better, raster.values) == ("lower", {0: 10.0, 1: 11.0, 2: 12.0})


def test_holm_takes_away_what_one_of_many_would_be(make_store):
    near = {RASTER: [10.0, 11.0, 12.0], ZIGZAG: [9.0, 9.7, 11.2]}  # t = 7.11, so p = 1 - 7.11 / sqrt(52.6) = 0.019
    many = near | {("zigma", f"random {i}"): [10.1, 10.8, 12.2] for i in range(4)}
    for given, verdict in ((near, "significant"), (many, "not significant")):
        found = rows(read_table(make_store(given)))[ZIGZAG].differences["fd-efflite0"]
        assert found.p < 0.05
        assert (found.verdict, found.p_holm < 0.05) == (verdict, verdict == "significant")


def test_pairs_are_of_one_seed(make_store):
    """A seed that only one row has is in no difference."""
    given = {RASTER: [10.0, None, 12.0, 13.0], ZIGZAG: [9.0, 1.0, 9.5, 9.0]}
    found = rows(read_table(make_store(given)))[ZIGZAG].differences["fd-efflite0"]
    assert (found.n, found.mean) == (3, pytest.approx(-7.5 / 3))


def test_two_seeds_are_indicative(make_store):
    table = read_table(make_store({RASTER: [10.0, 11.0], ZIGZAG: [9.0, 9.0]}))
    found = rows(table)[ZIGZAG].differences["fd-efflite0"]
    assert (found.mean, found.verdict, found.p, found.p_holm, found.ci_low) == (-1.5, "indicative", None, None, None)
    assert "Fewer than three seeds: indicative, not a result." in table_footer(table)
    assert differences.difference_lines(table)[1][-4:] == ("-", "2", "indicative", "-")


@pytest.mark.parametrize("budget", ["images", "flops", "seconds"])
def test_unequal_scans_compare_under_equal_compute_alone(make_store, budget):
    given = KNOWN | {FOUR: [5.0, 6.1, 7.3]}
    table = read_table(make_store(given, budget=budget, ratios={FOUR: 4.0}))
    found, other = (rows(table)[row].differences["fd-efflite0"] for row in (FOUR, ZIGZAG))
    assert found.mean == pytest.approx(-14.6 / 3)
    if budget == "images":
        assert (found.verdict, found.p, found.ci_low) == ("untested", None, None)
        assert other.p_holm == pytest.approx(2 * other.p)  # and it counts in no correction
        assert any(line.startswith("†") and "a different number of tokens" in line for line in table_footer(table))
        assert "6.133 ± 1.2 †" in to_markdown([table])
    else:
        assert (found.verdict, found.reason) == ("significant", None)
        assert not any(line.startswith("†") for line in table_footer(table))


def test_a_difference_that_does_not_vary_is_not_tested(make_store):
    table = read_table(make_store({RASTER: [1.0, 2.0, 3.0], ZIGZAG: [2.0, 3.0, 4.0]}))
    found = rows(table)[ZIGZAG].differences["fd-efflite0"]
    assert (found.mean, found.verdict, found.p) == (1.0, "untested", None)
    json.loads(to_json([table]))


def test_smoke_tests_nothing(make_store):
    table = read_table(make_store(KNOWN, smoke=True))
    assert rows(table)[ZIGZAG].differences["fd-efflite0"].verdict == "untested"
    assert not differences.has_differences(table)


def test_a_nan_seed_is_excluded_and_reported(make_store):
    table = read_table(make_store({RASTER: [10.0, 11.0, 12.0], ZIGZAG: [9.0, float("nan"), 9.0]}))
    found = rows(table)[ZIGZAG]
    assert (found.differences["fd-efflite0"].n, found.differences["fd-efflite0"].verdict) == (2, "indicative")
    assert "(n=2)" in to_markdown([table])
    assert "fd-efflite0 of zigma zigzag paths=8: the value is nan" in table_footer(table)


def test_a_table_without_its_baseline_compares_nothing(make_store):
    table = read_table(make_store(KNOWN, baseline=False))
    assert table.baseline_row is None
    assert not any(row.differences for row in table.rows)


def test_an_unknown_metric_has_no_direction_and_is_named_in_the_footer(make_store):
    table = read_table(make_store(KNOWN, metric="of-a-plugin"))
    assert rows(table)[RASTER].metrics["of-a-plugin"].better is None
    assert any("of-a-plugin" in line and "unknown" in line for line in table_footer(table))


def test_csv_and_json_contain_every_field_in_full(make_store):
    table = read_table(make_store(KNOWN))
    (line,) = [r for r in csv.DictReader(io.StringIO(to_csv([table]))) if r["scan"] == ZIGZAG[1]]
    (row,) = [r for r in json.loads(to_json([table]))["rows"] if r["scan"] == ZIGZAG[1]]
    found = rows(table)[ZIGZAG].differences["fd-efflite0"]
    for name in ("mean", "sd", "n", "ci_low", "ci_high", "t", "p", "p_holm"):
        assert float(line[f"difference_{name}"]) == row["differences"]["fd-efflite0"][name] == getattr(found, name)
    assert (line["difference_verdict"], line["better"]) == ("not significant", "lower")


@pytest.mark.parametrize("width", [80, 160])
def test_a_narrow_terminal_loses_no_digit(make_store, width):
    table = read_table(make_store({RASTER: [10.0, 11.0, 12.0], ZIGZAG: [9.0, 9.7, 11.2]}))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_rich(table))
    console.print(differences_to_rich(table))
    text = console.export_text()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for word in ("fd-efflite0 ↓", "-1.03 *", "0.019", "baseline"):
        assert word in text, text


def test_an_extrapolated_figure_is_called_one(make_store):
    told = "is extrapolated to infinitely many samples; it is not measured directly."
    table = read_table(make_store(KNOWN, metric="fd-efflite0-infinity"))
    assert f"fd-efflite0-infinity {told}" in table_footer(table)
    assert not any(told in line for line in table_footer(read_table(make_store(KNOWN, metric="fd-efflite0"))))


def test_unlike_figures_end_the_command_with_code_4(make_store):
    folder = make_store(KNOWN)
    path = next(folder.glob("zigma-hilbert*-1/quality-*/record.json"))
    data = json.loads(path.read_text())
    data["measurements"][0]["fingerprint"]["n_samples"] = 8
    path.write_text(json.dumps(data))
    done = subprocess.run(
        [sys.executable, "-m", "zigma_bench", "report", str(folder)], capture_output=True, text=True
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "")
    assert "two values of fd-efflite0 differ in n_samples; expected n_samples 9 in every row; got 8" in done.stderr
