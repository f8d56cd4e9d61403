"""The epochs and the generalization gap of a row: means over seeds, in JSON and in the footer."""

from __future__ import annotations

import hashlib
import json

import pytest
from made_tables import make_cell, make_table

from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.reports.overfitting import training_facts
from zigma_bench.reports.render import table_footer, to_json
from zigma_bench.reports.table import read_tables

ORIGIN = {"card": "test", "precision": "fp32", "backend": "cpu"}


def point(gap, error=0.001, images=64):
    return {"images": images, "values": {"train-minus-val-loss": gap, "train-minus-val-loss-error": error}}


def trained(details):
    return Record("train", "0" * 64, {}, "done", details=details, provenance=ORIGIN)


def write_run(folder, details):
    """A table of one row with a seed for each entry of `details`."""
    cells = []
    for seed, each in enumerate(details):
        identity = hashlib.sha256(str(seed).encode()).hexdigest()
        cells.append(make_cell(f"cell-{seed}", identity, stages={"train": identity}, seed=seed))
        loss = Measurement.of("train-loss", 1.0, "1")
        record = Record("train", identity, {}, "done", (loss,), details=each, provenance=ORIGIN)
        write_record(stage_folder(folder / f"cell-{seed}", "train", identity), record)
    make_table(folder, cells)
    return read_tables(folder)


def test_the_last_point_of_each_seed_is_averaged(tmp_path):
    curves = [[point(-9.0, images=32), point(-0.2)], [point(-0.4)]]
    tables = write_run(tmp_path / "main", [{"epochs": 2.0, "during": curve} for curve in curves])
    (row,) = json.loads(to_json(tables))["rows"]
    assert row["training"] == pytest.approx(
        {"epochs": 2.0, "train-minus-val-loss": -0.3, "train-minus-val-loss-error": 0.001}
    )
    assert not row["metrics"]  # no column
    (note,) = [line for line in table_footer(tables[0]) if "minus validation" in line]
    assert "zigma raster -0.3000 ± 0.0010 after 2 epochs" in note


def test_without_a_curve_there_are_epochs_and_no_sentence(tmp_path):
    tables = write_run(tmp_path / "main", [{"epochs": 2.0}, {"epochs": 2.0}])
    assert tables[0].rows[0].training == {"epochs": 2.0}
    assert not [line for line in table_footer(tables[0]) if "minus validation" in line]


@pytest.mark.parametrize(
    "during", [None, [], {}, "x", [3], [{}], [{"values": 3}], [{"values": {}}], [point(None)], [point("a")]]
)
def test_a_curve_without_a_number_is_left_out(during):
    assert "train-minus-val-loss" not in training_facts([trained({"epochs": "x", "during": during})])


def test_a_value_that_one_seed_lacks_is_left_out():
    assert training_facts([trained({"epochs": 1.0}), trained({})]) == {}
    assert training_facts([]) == {}
