"""Estimates from the time that trainings and samplings took, per FLOP."""

from __future__ import annotations

import pytest

from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.run.due import cell_folder
from zigma_bench.run.estimate import Estimator
from zigma_bench.run.spent import LEAST_FACTOR
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device

CARD = Device("cuda:0", "a card")
SUITE = """# How long?
name: long
data: {name: digits, validation: 100}
compare:
  - backbone: {name: zigma, width: WIDTH, depth: 2, patch: 4}
    scans: [raster]
  - backbone: {name: dit, width: 32, depth: 2, patch: 4}
seeds: [0, 1]
budget: {images: 64}
train: {batch: 16, compile: COMPILE}
sample: {count: 24, batch: 12, evaluations: 2}
quality: [val-loss]
"""


def cells(folder, *, width: int = 16, compiled: bool = False):
    path = folder / "suite.yaml"
    path.write_text(SUITE.replace("WIDTH", str(width)).replace("COMPILE", str(compiled).lower()))
    return make_plan(*load_suite(path), catalogue()).cells


def write_times(results, cell, *, train: float, sample: float):
    """Records of a cell that took so many seconds per FLOP."""
    flops, facts = sum(cell.forward_flops.values()), cell.model_dump(mode="json")
    origin = {"card": CARD.model_name, "precision": "bf16", "backend": "auto"}
    stages = {
        "train": ({"images": 64, "seconds": 3 * 64 * flops * train}, 0.0),
        "sample": ({"count": 24, "evaluations": 2}, 24 * 2 * flops * sample),
    }
    for stage, (details, seconds) in stages.items():
        identity = cell.identity(stage, device_model=CARD.model_name)
        folder = stage_folder(cell_folder(results / "long" / "main", cell), stage, identity)
        origin = {**origin, "seconds": seconds, "started": cell.seed}
        write_record(folder, Record(stage, identity, facts, "done", details=details, provenance=origin))


def test_a_network_of_another_width_is_estimated_by_its_flops(tmp_path):
    first, second, *_ = cells(tmp_path)
    assert Estimator(tmp_path / "r", CARD)(first).seconds is None
    write_times(tmp_path / "r", first, train=1e-9, sample=2e-9)
    write_times(tmp_path / "r", second, train=3e-9, sample=2e-9)
    wide = cells(tmp_path, width=64)[0]
    guess, flops = Estimator(tmp_path / "r", CARD)(wide), sum(wide.forward_flops.values())
    assert guess.seconds == pytest.approx(64 * 3 * flops * 2e-9 + 24 * 2 * flops * 2e-9)
    assert guess.records == 2 and guess.factors == pytest.approx((1 / 2, 2.0))
    assert guess.source == "the time per FLOP of 2 trainings and 2 samplings of such networks here"


def test_other_operators_launches_and_cards_are_another_matter(tmp_path):
    first, _, dit, *_ = cells(tmp_path)
    write_times(tmp_path / "r", first, train=1e-9, sample=2e-9)
    assert Estimator(tmp_path / "r", CARD)(first).factors == pytest.approx((1 / LEAST_FACTOR, LEAST_FACTOR))
    assert Estimator(tmp_path / "r", CARD)(dit).seconds is None
    assert Estimator(tmp_path / "r", CARD)(cells(tmp_path, compiled=True)[0]).seconds is None
    assert Estimator(tmp_path / "r", Device("cuda:0", "another card"))(first).seconds is None


def test_a_cell_that_only_tunes_samples_nothing(tmp_path):
    first, *_ = cells(tmp_path)
    write_times(tmp_path / "r", first, train=1e-9, sample=2e-9)
    tuning = first.model_copy(update={"tunes": True})
    assert Estimator(tmp_path / "r", CARD)(tuning).seconds == pytest.approx(
        64 * 3 * sum(first.forward_flops.values()) * 1e-9
    )
