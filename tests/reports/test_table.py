"""Tables from stored records with known answers."""

from __future__ import annotations

import csv
import io
import json

import pytest
from made_tables import make_cell, make_table

from zigma_bench.errors import ComparisonRefused, UsageError
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.reports.figures import round_significant
from zigma_bench.reports.render import to_csv, to_json, to_markdown, to_rich
from zigma_bench.reports.table import find_tables, read_table


@pytest.fixture
def store(tmp_path):
    """The folder of a run with a floor, two scans of three seeds, and a ceiling."""
    folder, cells = tmp_path / "suite" / "main", []

    def add(role, backbone, scan, seed, value, *, smoke=False, fingerprint=None, **rest):
        identity, name = f"{role}{backbone}{scan}{seed}".ljust(12, "0"), f"{role}-{backbone}-{scan}-{seed}"
        facts = {"role": role, "seed": seed, "backbone": backbone, "scan": scan, "smoke": smoke}
        cells.append(make_cell(name, identity, **facts))
        if value is not None:
            measurement = Measurement.of("fd", value, "1", fingerprint=fingerprint or {"n_samples": 9})
            facts = {"stage": "quality", "identity": identity, "cell": {}, "status": "done", **rest}
            write_record(stage_folder(folder / name, "quality", identity), Record(measurements=(measurement,), **facts))
        row = {"backbone": "none", "scan": None}
        make_table(folder, cells, suite="suite", smoke=smoke, baseline=row)
        return folder

    return add


def test_mean_and_spread_over_seeds(store):
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        store("cell", "zigma", "raster", seed, value)
    store("ceiling", "untrained", None, 0, 9.0)
    folder = store("floor", "held-out", None, 0, 0.5)
    floor, row, ceiling = read_table(folder).rows
    assert (floor.role, row.role, ceiling.role) == ("floor", "cell", "ceiling")
    statistic = row.metrics["fd"]
    assert statistic.mean == 3.0
    assert statistic.sd == pytest.approx(7**0.5)
    assert (statistic.n, row.seed_count, row.status) == (3, 3, "done")
    assert ceiling.metrics["fd"].sd is None


def test_json_has_the_documented_shape(store):
    folder = store("cell", "zigma", "raster", 0, 1.0)
    (row,) = json.loads(to_json(find_tables([folder])))["rows"]
    assert {"role", "backbone", "scan", "seed_count", "status", "smoke", "metrics"} <= set(row)
    promised = {"mean": 1.0, "sd": None, "n": 1, "unit": "1", "reason": None, "ci_low": None, "ci_high": None}
    promised |= {"extractor": None, "against_untrained": None}
    assert row["metrics"]["fd"] == promised | {"better": None, "stage": "quality", "values": {"0": 1.0}}
    assert (row["baseline"], row["differences"]) == (False, {})


def test_unlike_fingerprints_are_refused_with_the_field(store):
    store("cell", "zigma", "raster", 0, 1.0)
    folder = store("cell", "zigma", "zigzag", 0, 1.0, fingerprint={"n_samples": 8})
    with pytest.raises(ComparisonRefused, match="two values of fd differ in n_samples") as caught:
        read_table(folder)
    assert caught.value.exit_code == 4


def test_records_that_differ_only_in_their_origin_share_a_row(store):
    for seed in range(3):
        origin = {
            "card": "a card", "precision": "fp32", "backend": "cpu", "host": f"host {seed}", "executor": "local",
            "source": None if seed else {"commit": "c", "changes_sha256": "d"}, "driver": str(seed),
            "command": [str(seed)], "attempts": [{"time": 1.0, "host": "h"}] * (seed + 1), "plugins": [],
        }  # fmt: skip
        folder = store("cell", "zigma", "raster", seed, float(seed), provenance=origin)
    (table,) = find_tables([folder])
    assert [(row.seed_count, row.metrics["fd"].n) for row in table.rows] == [(3, 3)]
    assert table.machines == ("a card, fp32, backend cpu",)


def test_a_reference_is_its_pixels_and_not_its_name(store):
    """A data set with a new option has a different text but the same pixels."""
    facts = {"split": "validation", "sha256": "a"}
    store("cell", "zigma", "raster", 0, 1.0, fingerprint={"reference": {"data": "photographs", **facts}})
    folder = store(
        "cell", "zigma", "zigzag", 0, 2.0, fingerprint={"reference": {"data": "photographs label=None", **facts}}
    )
    assert len(read_table(folder).rows) == 2
    store("cell", "zigma", "random", 0, 2.0, fingerprint={"reference": {**facts, "sha256": "b"}})
    with pytest.raises(ComparisonRefused, match="two values of fd differ in reference"):
        read_table(folder)


def test_smoke_is_not_mixed_with_real_runs(store):
    store("cell", "zigma", "raster", 0, 1.0)
    with pytest.raises(ComparisonRefused, match="smoke runs are mixed with real runs"):
        read_table(store("cell", "zigma", "zigzag", 0, 1.0, smoke=True))


def test_a_failed_and_a_missing_cell_are_rows_with_their_reason(store):
    store("cell", "zigma", "raster", 0, 1.0)
    store("cell", "zigma", "zigzag", 0, 1.0, status="failed", reason="the loss became nan at step 3")
    table = read_table(store("cell", "dit", None, 0, None))
    assert [row.status for row in table.rows] == ["done", "failed", "missing"]
    text = to_markdown([table])
    assert "the loss became nan at step 3" in text
    assert "1 of 1 seeds are not done" in text
    assert to_rich(table).row_count == 3


def test_a_nan_is_shown_as_missing_with_its_reason(store):
    table = read_table(store("cell", "zigma", "raster", 0, float("nan")))
    statistic = table.rows[0].metrics["fd"]
    assert (statistic.mean, statistic.n, statistic.reason) == (None, 0, "the value is nan")
    assert "the value is nan" in to_markdown([table])


def test_csv_runs_no_formula(store):
    folder = store("cell", "=cmd()", "raster", 0, 1.0)
    (line,) = csv.DictReader(io.StringIO(to_csv(find_tables([folder]))))
    assert line["backbone"] == "'=cmd()"
    assert float(line["mean"]) == 1.0


def test_folders_without_results(tmp_path):
    with pytest.raises(UsageError, match="no such results folder"):
        find_tables([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="there are no results of a suite here"):
        find_tables([tmp_path])


def test_a_newer_table_is_refused(store):
    folder = store("cell", "zigma", "raster", 0, 1.0)
    data = json.loads((folder / "table.json").read_text())
    (folder / "table.json").write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(ComparisonRefused, match="update zigma-bench"):
        find_tables([folder])


def test_figures_are_readable():
    assert [round_significant(v) for v in (1234.56, 12.3456, 0.00123456, 0.0, 1e12, -3.0)] == [
        "1,235", "12.35", "0.001235", "0", "1e+12", "-3.000",
    ]  # fmt: skip
