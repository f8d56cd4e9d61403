"""A small store of records, cell by cell."""

from __future__ import annotations

import pytest

from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_json, write_record


@pytest.fixture
def make_store(tmp_path):
    """`make_store({(backbone, scan): [a value a seed]})`: the folder of a suite whose baseline is zigma with raster."""

    def make(rows, *, metric="fd-efflite0", budget="images", ratios=None, smoke=False, baseline=True, **rest):
        folder, cells = tmp_path / "toy", []
        for (backbone, scan), values in rows.items():
            for seed, value in enumerate(values):
                identity, name = f"{backbone}{scan}{seed}".ljust(12, "0"), f"{backbone}-{scan}-{seed}"
                ratio = (ratios or {}).get((backbone, scan), 1.0)
                cells.append({
                    "folder": name, "stages": {"quality": identity}, "role": "cell", "seed": seed, "smoke": smoke,
                    "backbone": backbone, "scan": scan, "parameters": 10, "forward_flops": 20, "scanned_ratio": ratio,
                    "tokens": 4,
                })  # fmt: skip
                if value is None:
                    continue
                found = Measurement.of(metric, value, "1", fingerprint={"n_samples": 9}, **rest)
                cell = {"quality": [{"name": metric}]}
                made = Record("quality", identity, cell, "done", (found,))
                write_record(stage_folder(folder / name, "quality", identity), made)
        write_json(folder / "table.json", {
            "format": 1, "suite": "toy", "question": "Why?", "smoke": smoke, "budget": {budget: 5},
            "reference": "train", "sample_count": 9, "residual": ["official"], "cells": cells,
            **({"baseline": {"backbone": "zigma", "scan": "raster"}} if baseline else {}),
        })  # fmt: skip
        return folder

    return make
