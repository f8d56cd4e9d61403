"""Rows that are no better than the untrained network are marked, in every format and on every metric."""

from __future__ import annotations

import csv
import io
import json

import pytest
from made_tables import make_cell, make_table

from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.reports.render import table_footer, to_csv, to_json, to_markdown, to_rich
from zigma_bench.reports.table import read_table

METRICS = ("val-loss", "kid-efflite0", "precision-efflite0")  # the last is better higher
SAME = {"val-loss": [2.0], "kid-efflite0": [50.0], "precision-efflite0": [0.1]}  # as the ceiling
FIGURES = {
    ("floor", "held-out images", None): {"kid-efflite0": [-0.1], "precision-efflite0": [0.9]},
    ("cell", "zigma", "raster"): {"val-loss": [1.0, 2.9], "kid-efflite0": [5.0, 6.0], "precision-efflite0": [0.7, 0.6]},
    ("cell", "zigma", "zigzag"): {"val-loss": [1.9, 2.2], "kid-efflite0": [50, 51], "precision-efflite0": [0.1, 0.08]},
    ("cell", "dit", None): SAME,
    ("ceiling", "untrained zigma", "raster"): SAME,
}  # fmt: skip


@pytest.fixture
def make(tmp_path):
    """`make(figures, metrics)`: the table of a suite with these figures, a value a seed."""

    def made(figures=FIGURES, metrics=METRICS):
        folder, cells = tmp_path / "toy" / "main", []
        for (role, backbone, scan), values in figures.items():
            for seed in range(max(map(len, values.values()))):
                identity, name = f"{role}{backbone}{scan}{seed}".replace(" ", "").ljust(12, "0"), f"{role}-{len(cells)}"
                cells.append(make_cell(name, identity, role=role, seed=seed, backbone=backbone, scan=scan))
                asked = [metric for metric in metrics if metric in values]
                found = tuple(Measurement.of(m, values[m][seed], "1", fingerprint=facts(m)) for m in asked)
                record = Record("quality", identity, {"quality": [{"name": m} for m in asked]}, "done", found)
                write_record(stage_folder(folder / name, "quality", identity), record)
        make_table(folder, cells)
        return read_table(folder)

    return made


def facts(metric):
    return {"n_samples": 9} | ({"extractor": "efflite0-128"} if "efflite0" in metric else {})


def judged(table):
    return {(row.role, row.scan): [s.against_untrained for s in row.metrics.values()] for row in table.rows}


def test_the_mean_over_seeds_is_compared_by_the_metrics_own_direction(make):
    assert judged(make()) == {
        ("floor", None): ["better", "better"],
        ("cell", "raster"): ["better", "better", "better"],  # though one seed's loss is worse
        ("cell", "zigzag"): ["no better", "no better", "no better"],
        ("cell", None): ["no better", "no better", "no better"],  # equal is no better
        ("ceiling", "raster"): [None, None, None],
    }


def test_values_without_a_known_direction_or_ceiling_are_not_compared(make):
    figures = {key: values for key, values in FIGURES.items() if key[0] != "ceiling"}
    assert all(found == [None] * len(found) for found in judged(make(figures)).values())
    figures[("ceiling", "untrained zigma", "raster")] = SAME | {"val-loss": [float("nan")]}
    assert judged(make(figures))["cell", "zigzag"] == [None, "no better", "no better"]
    stranger = {key: {"nobodys": [1.0]} for key in FIGURES}
    assert judged(make(stranger, ("nobodys",)))["cell", "zigzag"] == [None]


def test_every_format_marks_and_explains_them(make):
    table = make()
    note = "‡ no better than the untrained network (the ceiling) on this metric."
    assert note in table_footer(table)
    text = to_markdown([table])
    zigzag, raster = (
        next(line for line in text.splitlines() if line.startswith(f"| cell | zigma | {scan}"))
        for scan in ("zigzag", "raster")
    )
    assert (zigzag.count("‡"), raster.count("‡"), note in text) == (3, 0, True)
    shown = [[str(cell) for cell in column.cells] for column in to_rich(table).columns[-3:]]
    assert [["‡" in cell for cell in column] for column in shown] == [[False, False, True, True, False]] * 3
    lines = list(csv.DictReader(io.StringIO(to_csv([table]))))
    marked = [line for line in lines if line["against_untrained"] == "no better"]
    assert {(line["backbone"], line["metric"]) for line in marked} == {
        (b, m) for b in ("zigma", "dit") for m in METRICS
    }
    assert {line["reason"] for line in marked} == {"no better than the untrained network"}
    rows = json.loads(to_json([table]))["rows"]
    found = [metric for row in rows for metric in row["metrics"].values() if metric["against_untrained"] == "no better"]
    assert (len(found), {metric["reason"] for metric in found}) == (6, {"no better than the untrained network"})


def test_there_is_no_note_if_all_rows_are_better(make):
    figures = {key: values for key, values in FIGURES.items() if "z" in key[1] and key[2] != "zigzag"}
    assert "‡" not in to_markdown([make(figures)])


def test_a_column_shows_the_size_of_its_extractor(make):
    table = make()
    head = to_markdown([table]).splitlines()[2]
    assert "| kid-efflite0@128 ↓ | precision-efflite0@128 ↑ | val-loss ↓ |" in head
    assert "| kid-efflite0@128 ↓ | zigma zigzag ‡ |" in to_markdown([table])  # of the second table
    assert {line["extractor"] for line in csv.DictReader(io.StringIO(to_csv([table])))} == {"", "efflite0-128"}
