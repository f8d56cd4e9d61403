"""A small store of records, cell by cell."""

from __future__ import annotations

import importlib

import pytest
from made_tables import make_cell, make_table

from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record


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
