"""The detectable difference of a plan: in standard deviations, and in the unit of a metric once there are records."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from made_tables import make_cell, make_table

from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.reports.detectable import describe_detectable, find_detectable
from zigma_bench.reports.statistics import detectable_difference
from zigma_bench.suite import load_suite

EIGHT = ("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4, 5, 6, 7]")
VALUES = {
    ("zigma", "raster"): [10.0, 11.0, 13.0],
    ("zigma", "zigzag paths=8"): [9.0, 9.5, 11.0],
    ("dit", None): [5.0, 7.0],
}


def found(write_suite, results, *changes, **rest):
    return find_detectable(make_plan(*load_suite(write_suite(*changes)), catalogue(), **rest), results)


@pytest.fixture
def results(tmp_path):
    """A run of the small suite with three seeds of two rows and two of the third."""
    folder, cells = tmp_path / "results" / "tiny" / "main", []
    for (backbone, scan), values in VALUES.items():
        for seed, value in enumerate(values):
            name = f"{backbone}-{scan}-{seed}".replace(" ", "-")
            cells.append(make_cell(name, name.rjust(12, "0"), backbone=backbone, scan=scan, seed=seed))
            figure = Measurement.of("val-loss", value, "1")
            made = Record("quality", name.rjust(12, "0"), {"quality": [{"name": "val-loss"}]}, "done", (figure,))
            write_record(stage_folder(folder / name, "quality", name.rjust(12, "0")), made)
    make_table(folder, cells, suite="tiny", content={"seeds": [0, 1, 2]})
    return tmp_path / "results"


def test_it_is_of_the_first_step_of_the_family(write_suite, tmp_path):
    detectable = found(write_suite, tmp_path, EIGHT)
    assert (detectable.seeds, detectable.comparisons, detectable.power) == (8, 2, 0.8)
    assert detectable.effect == pytest.approx(detectable_difference(8, 0.025, 0.8))
    first, second = describe_detectable(detectable)
    assert (
        f"8 seeds find a difference of {detectable.effect:.2f} standard deviations" in first
        and "2 comparisons" in first
    )
    assert "not known before the suite has records of two seeds" in second


def test_a_declared_family_power_and_number_of_seeds_count(write_suite, tmp_path):
    family = "family: {x: {row: dit, against: 'zigma *'}}"
    text = f"statistics: {{primary: val-loss, alpha: 0.1, power: 0.9, tests_at_seeds: 5, {family}}}"
    detectable = found(write_suite, tmp_path, EIGHT, ("quality: [val-loss]", f"quality: [val-loss]\n{text}"))
    assert (detectable.seeds, detectable.comparisons) == (5, 1)
    assert detectable.effect == pytest.approx(detectable_difference(5, 0.1, 0.9))


def test_it_has_the_unit_of_the_metric_once_there_are_records(write_suite, results):
    """The variances of the differences (3 seeds with 2 degrees of freedom, 2 seeds with 1) are pooled."""
    detectable = found(write_suite, results, EIGHT)
    zigzag, dit = np.var([-1.0, -1.5, -2.0], ddof=1), np.var([-5.0, -4.0], ddof=1)
    sd = np.sqrt((2 * zigzag + dit) / 3)
    (scale,) = detectable.scales
    assert (scale.metric, scale.contrasts, scale.freedom, scale.run) == ("val-loss", 2, 3, "main")
    assert (scale.sd, scale.difference) == (pytest.approx(sd), pytest.approx(sd * detectable.effect))
    assert (
        "detectable in val-loss: 0.773 (standard deviation 0.577, from 2 comparisons"
        in describe_detectable(detectable)[1]
    )


def test_contrasts_that_an_earlier_run_lacks_are_left_out(write_suite, results):
    family = "family: {a: {row: dit, against: zigma raster}, b: {row: 'zigma spiral*', against: dit}}"
    scans = ("scans: [raster, {name: zigzag, paths: 8}]", "scans: [raster, spiral]")
    text = ("quality: [val-loss]", f"quality: [val-loss]\nstatistics: {{primary: val-loss, {family}}}")
    detectable = found(write_suite, results, EIGHT, scans, text)
    assert (detectable.comparisons, detectable.scales[0].contrasts) == (2, 1)


def test_two_seeds_detect_nothing(write_suite, results):
    assert describe_detectable(found(write_suite, results)) == [
        "detectable: nothing: a paired test needs 3 seeds, and the suite has 2"
    ]


def test_a_smoke_run_and_a_single_row_have_no_comparison(write_suite, results):
    assert found(write_suite, results, EIGHT, smoke=True) is None
    one = ("  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n", "")
    assert found(write_suite, results, EIGHT, one, (", {name: zigzag, paths: 8}", "")) is None
    assert describe_detectable(None) == []


def test_plan_prints_it(write_suite, results):
    words = [sys.executable, "-m", "zigma_bench", "plan", str(write_suite(EIGHT)), "--results", str(results)]
    done = [subprocess.run(words + more, capture_output=True, text=True) for more in ([], ["--json"])]
    assert "detectable: 8 seeds find" in done[0].stdout and "detectable in val-loss" in done[0].stdout
    document = json.loads(done[1].stdout)["detectable"]
    assert document["comparisons"] == 2 and document["scales"][0]["metric"] == "val-loss"
