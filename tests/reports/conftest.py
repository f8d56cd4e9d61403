"""A small store of records, cell by cell."""

from __future__ import annotations

import importlib
import json

import pytest
from made_tables import make_cell, make_table

from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.reports.table import read_tables
from zigma_bench.suite import Statistics


@pytest.fixture(scope="session")
def statsmodels():
    """The package statsmodels, an independent implementation of the tests."""
    reason = "statsmodels, against which the tests of a study are checked, is not installed"
    package = pytest.importorskip("statsmodels", reason=reason)
    for name in ("stats.weightstats", "stats.power", "stats.multitest"):
        importlib.import_module(f"statsmodels.{name}")
    return package


@pytest.fixture
def make_store(tmp_path):
    """`make_store({(backbone, scan): [a value a seed]})`: the folder of a run whose baseline is zigma with raster."""

    def make(rows, *, metric="fd-efflite0", budget="images", ratios=None, smoke=False, baseline=True, **rest):
        folder, cells = tmp_path / "toy" / "main", []
        for (backbone, scan), values in rows.items():
            for seed, value in enumerate(values):
                identity, name = f"{backbone}{scan}{seed}".ljust(12, "0"), f"{backbone}-{scan}-{seed}"
                ratio = (ratios or {}).get((backbone, scan), 1.0)
                facts = {"seed": seed, "smoke": smoke, "backbone": backbone, "scan": scan, "scanned_ratio": ratio}
                cells.append(make_cell(name, identity, **facts))
                if value is None:
                    continue
                found = Measurement.of(metric, value, "1", fingerprint={"n_samples": 9}, **rest)
                cell = {"quality": [{"name": metric}]}
                made = Record("quality", identity, cell, "done", (found,))
                write_record(stage_folder(folder / name, "quality", identity), made)
        row = {"backbone": "zigma" if baseline else "absent", "scan": "raster"}
        make_table(folder, cells, smoke=smoke, budget={budget: 5}, baseline=row)
        return folder

    return make


@pytest.fixture
def make_study(tmp_path):
    """`make_study({metric: {scan: [a value a seed]}}, statistics)`: the table of a run whose suite declares tests.

    `images`: the training images of each scan, 1000 by default. The name `large/raster` is the scan raster in the
    backbone large, so that an arm can have several budgets.
    """

    def make(values, statistics, *, images=None, seeds=None, **changes):
        folder, cells = tmp_path / "toy" / "main", []
        scans = list(dict.fromkeys(scan for of in values.values() for scan in of))
        count = max(len(one) for of in values.values() for one in of.values())
        for scan in scans:
            for seed in range(count):
                found = [
                    Measurement.of(metric, of[scan][seed], "1", fingerprint={"n_samples": 9})
                    for metric, of in values.items()
                    if len(of[scan]) > seed and of[scan][seed] is not None
                ]
                name = f"{scan}-{seed}".replace(" ", "-").replace("/", "-")
                identity = name.rjust(12, "0")
                backbone, _, order = scan.rpartition("/")
                facts = {"seed": seed, "backbone": backbone or "zigma", "scan": order}
                cells.append(make_cell(name, identity, **facts))
                if found:
                    cell = {
                        "quality": [{"name": one.name} for one in found],
                        "train_images": (images or {}).get(scan, 1000),
                    }
                    made = Record("quality", identity, cell, "done", tuple(found))
                    write_record(stage_folder(folder / name, "quality", identity), made)
        content = {"seeds": list(range(count)) if seeds is None else seeds}
        declared = Statistics.model_validate_json(json.dumps(statistics)).model_dump(mode="json")
        facts = {"budget": {"flops": 5.0}, "content": content, "statistics": declared}
        make_table(folder, cells, **(facts | changes))
        (table,) = read_tables(folder)
        return table

    return make
