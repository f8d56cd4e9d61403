"""Costs fitted to timed calls: known costs are found again, bad records are skipped, and a plan names the source."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from zigma_bench.backbones.build import build_network
from zigma_bench.cli.show import long_plan_lines
from zigma_bench.efficiency import combine_rounds, measure, measure_round
from zigma_bench.efficiency.timing import Timing
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.pack import pack_run
from zigma_bench.records.packed import PACKED
from zigma_bench.records.record import Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.run.due import all_cell_folders, cell_folder
from zigma_bench.run.estimate import Estimate, Estimator, matmul_rate
from zigma_bench.run.fitted_costs import FEWEST_CELLS, fit_costs
from zigma_bench.run.runs import open_run
from zigma_bench.run.timed import FEATURES, CallKind, MeasuredCall, features_of, network_of, timed_calls
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device

RECORDED = CallKind("train-step", "card", "bf16", "mamba", recorded=True, compiled=True)
LAUNCHED = CallKind("forward", "card", "fp32", "mamba", recorded=False, compiled=False)


def cell_of(tokens, depth=12, width=384, batch=None):
    """A cell with generated costs, in the form of a record."""
    flops = {"in_proj": 24 * tokens * depth * width**2, "scan": 200 * tokens * depth * width}
    return {
        "forward_flops": flops, "tokens": tokens, "order_digests": ["o"] * depth, "scanned_ratio": 1.0,
        "parameters": 12 * depth * width**2, "backbone": {"options": {}},
    }  # fmt: skip


def timed(kind, seconds_of, cells, *, backend="auto"):
    calls = []
    for number, (tokens, batch, depth) in enumerate(cells):
        named = dict(zip(FEATURES, features_of(cell_of(tokens, depth), batch), strict=True))
        seconds, peak = seconds_of(named), 1e8 + 16 * named["parameters"] + 40 * named["activations"]
        features = tuple(named.values())
        calls.append(MeasuredCall(kind, frozenset((backend, "fused")), f"cell {number}", features, seconds, peak))
    return calls


GRID = [(256, 1, 12), (256, 16, 24), (1024, 1, 12), (1024, 16, 24), (4096, 4, 12), (4096, 16, 24), (16384, 1, 12)]


def test_a_sum_of_costs_is_found_again_on_cells_it_has_not_seen():
    def seconds(named):
        return 1e-3 + 1.5e-15 * named["dense"] + 4e-14 * named["scan"] + 3e-12 * named["activations"]

    costs = fit_costs(timed(RECORDED, seconds, GRID), RECORDED, "auto")
    assert costs.cells == len(GRID)
    for unseen in ((512, 8, 12), (2048, 8, 24), (8192, 2, 12)):
        (one,) = timed(RECORDED, seconds, [unseen])
        assert costs.seconds.predict(one.features) == pytest.approx(one.seconds, rel=0.1)
        assert costs.peak.predict(one.features) == pytest.approx(one.peak, rel=0.1)
    assert costs.seconds.error < 0.1


def test_launching_hides_computing():
    """The time of small calls is that of their launches, the time of large calls that of their work."""

    def seconds(named):
        return max(1e-3 * named["layers"], 2e-15 * named["dense"])

    costs = fit_costs(timed(LAUNCHED, seconds, [*GRID, (256, 2, 24), (65536, 1, 12)]), LAUNCHED, "auto")
    for unseen in ((256, 4, 12), (16384, 8, 12)):
        (one,) = timed(LAUNCHED, seconds, [unseen])
        assert costs.seconds.predict(one.features) == pytest.approx(one.seconds, rel=0.15)


def test_the_error_is_that_of_cells_left_out():
    """A cell that doesn't fit the formula has a large error when left out, and the fit can't hide it."""

    def seconds(named):
        return 1e-15 * named["dense"] + 1e-3

    calls = timed(RECORDED, seconds, GRID)
    odd = calls[3]
    calls[3] = MeasuredCall(odd.kind, odd.backends, odd.cell, odd.features, 10 * odd.seconds, odd.peak)
    costs = fit_costs(calls, RECORDED, "auto")
    assert max(costs.seconds.left_out) > 0.5
    assert len(costs.seconds.left_out) == len(GRID)


def test_unlike_calls_are_not_fitted_together():
    calls = timed(RECORDED, lambda named: 1.0, GRID[: FEWEST_CELLS - 1])
    calls += timed(LAUNCHED, lambda named: 1.0, GRID) + timed(RECORDED, lambda named: 1.0, GRID, backend="triton")
    assert (
        fit_costs(calls, RECORDED, "auto") == f"{FEWEST_CELLS - 1} similar cells were timed on card, and a fit needs 5"
    )


@pytest.mark.parametrize(
    ("backbone", "options", "flops", "network"),
    [
        ("zigma", {"mixer": {"name": "mamba", "options": {}}}, {"scan": 2, "attention": 3}, "mamba"),
        ("hybrid", {"mixer": "mamba"}, {"scan": 2, "attention": 3}, "mamba"),
        ("vision-mamba", {"mixer": {"name": "mamba-2", "options": {}}}, {}, "mamba-2"),
        ("dit", {}, {"attention": 3, "scan": 0}, "attention"),
        ("convolutions", {}, {"dense": 1, "attention": 0}, "convolutions"),
    ],
)
def test_networks_of_the_same_operators_are_fitted_together(backbone, options, flops, network):
    cell = {"backbone": {"name": backbone, "options": options}, "forward_flops": flops}
    assert network_of(cell) == network


def test_a_network_without_orders_has_its_depth():
    cell = {**cell_of(64), "order_digests": [], "backbone": {"options": {"depth": 7}}}
    assert dict(zip(FEATURES, features_of(cell, 1), strict=True))["layers"] == 7
    cell["backbone"] = {"options": {}}
    assert dict(zip(FEATURES, features_of(cell, 1), strict=True))["layers"] == 1


DEVICE, PEAK, CALL = Device("cpu", "test"), 1e9, 0.01
SUITE = """# What do lengths cost?
name: lengths
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 1}
    scans: [raster]
sample: {solver: euler, evaluations: 2}
efficiency: {stages: [forward, train-step], repeats: 3, tokens: [4, 9, 16, 25, 36], batch: [2], channels: 1}
"""
TRAINED = """# And how long will a training take?
name: trained
data: {name: digits}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 1}
    scans: [raster]
seeds: [0]
budget: {images: 640}
train: {batch: 2}
sample: {count: 10, solver: euler, evaluations: 4}
quality: [val-loss]
"""


@pytest.fixture
def timed_results(tmp_path, monkeypatch):
    """A results folder of an efficiency suite of five lengths, run in one process; clock and memory are made up."""
    bounds = {"matmul_flops_per_second": 1.0, "copy_bytes_per_second": 1.0}
    monkeypatch.setattr(measure, "measure_ceilings", lambda cell, device: bounds)
    monkeypatch.setattr(measure, "scan_alone", lambda cell, device, repeats, stopped: {"bytes_per_second": 1.0})
    monkeypatch.setattr(measure, "peak_memory", lambda device: {"peak-memory": PEAK})
    monkeypatch.setattr(measure, "time_calls", lambda *arguments, **named: Timing((CALL,) * 3, 1.0, 3, True))
    (tmp_path / "lengths.yaml").write_text(SUITE)
    plan = make_plan(*load_suite(tmp_path / "lengths.yaml"), catalogue())
    for cell in plan.cells:
        one = measure_round(cell, build_network(cell, "cpu"), DEVICE, lambda done, text: None, lambda: False)
        found, details = combine_rounds(cell, DEVICE, [one])
        identity = cell.identity("efficiency", device_model=DEVICE.model_name)
        record = Record(
            stage="efficiency", identity=identity, cell=cell.model_dump(mode="json"), status="done",
            measurements=tuple(found), details=json.loads(json.dumps(details)),
            provenance={"card": "test", "precision": "fp32", "backend": "cpu"},
        )  # fmt: skip
        write_record(
            stage_folder(cell_folder(tmp_path / "results" / cell.suite / "main", cell), "efficiency", identity), record
        )
    return tmp_path / "results"


def test_a_plan_uses_the_records_of_this_gpu(tmp_path, timed_results):
    (tmp_path / "trained.yaml").write_text(TRAINED)
    cell, floor, ceiling = make_plan(*load_suite(tmp_path / "trained.yaml"), catalogue()).cells
    calls = timed_calls(timed_results, "test")
    assert {call.kind.call for call in calls} == {"forward", "train-step"}
    assert len(calls) == 10
    guess = Estimator(timed_results, DEVICE)(cell)
    assert "fitted to 5 cells timed here" in guess.source
    assert guess.seconds == pytest.approx(640 / 2 * CALL + 4 * CALL, rel=0.2)  # of 10 images at once
    assert guess.bytes == pytest.approx(PEAK, rel=0.2)
    assert Estimator(timed_results, DEVICE)(floor).seconds == 0.0
    assert 0 < Estimator(timed_results, DEVICE)(ceiling).seconds < guess.seconds
    assert Estimator(timed_results, Device("cpu", "another"))(cell).source == "FLOPs, to a factor of 3"
    on_gpu = Estimator(timed_results, Device("cuda:0", "another card"))(cell)
    assert on_gpu.seconds is None
    assert "0 similar cells were timed on another card, and a fit needs 5" in on_gpu.source


def test_packed_records_are_used_like_folders(timed_results, tmp_path, capsys, monkeypatch):
    (tmp_path / "lengths.yaml").write_text(SUITE)
    plan, suite = make_plan(*load_suite(tmp_path / "lengths.yaml"), catalogue()), timed_results / "lengths"
    before, (run,) = timed_calls(timed_results, "test"), list(timed_results.glob("*/main"))
    open_run(plan, timed_results, DEVICE)
    pack_run(run, remove=True)
    assert not list(timed_results.rglob("record.json"))
    assert timed_calls(timed_results, "test") == before
    folder = all_cell_folders(timed_results, plan.cells[0])
    assert folder == [cell_folder(run, plan.cells[0])] and suite == run.parent
    (run / PACKED).write_bytes(b"no")
    assert timed_calls(timed_results, "test") == [] and all_cell_folders(timed_results, plan.cells[0]) == []
    assert capsys.readouterr().err.count("restore the file") == 2


def test_the_estimate_of_a_cpu_does_not_count_the_time_of_other_programs(monkeypatch):
    """A clock that runs ten times as fast, as on a busy machine, changes nothing; the shortest product counts."""
    clock = iter([0.0, 0.5, 1.0, 1.1, 2.0, 2.2, 3.0, 3.3, 4.0, 4.4])
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    monkeypatch.setattr(time, "perf_counter", lambda: pytest.fail("wall time"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert matmul_rate() == pytest.approx(3 * 2 * 1024**3 / 0.1)


def test_an_estimate_has_an_interval_and_a_number_of_records(tmp_path, timed_results):
    (tmp_path / "trained.yaml").write_text(TRAINED)
    cell = make_plan(*load_suite(tmp_path / "trained.yaml"), catalogue()).cells[0]
    fitted = Estimator(timed_results, DEVICE)(cell)
    assert fitted.records == 5 and fitted.factors[0] <= 1 <= fitted.factors[1]
    low, high = fitted.range_seconds
    assert low <= fitted.seconds <= high and Estimate(None, "").range_seconds is None
    by_flops = Estimator(timed_results, Device("cpu", "another"))(cell)
    assert by_flops.records == 0 and by_flops.factors == pytest.approx((1 / 3, 3))


def test_a_plan_of_days_says_what_it_assumes():
    day = 86_400.0
    guesses = [Estimate(day, "a fit", records=7, factors=(0.5, 2.0)), Estimate(day, "FLOPs", factors=(1 / 4, 4.0))]
    first, second = long_plan_lines([*guesses, Estimate(None, "nothing")], Device("cuda:0", "a card"))
    assert first.startswith("more than a day: 2 days, between 18.0 h and 6 days")
    assert "1 cells without an estimate" in first
    assert "one cell after another on cuda:0 (a card)" in second and "at most 7 records" in second
    assert long_plan_lines([Estimate(day / 2, "a fit"), Estimate(None, "")], DEVICE) == []


SHAPELESS = (
    '{"format": 1, "measurements": [], "stage": "efficiency", "identity": "a", "cell": {}, "status": "done", '
    '"provenance": {"card": "test"}, "details": {}}'
)


@pytest.mark.parametrize("text", ["{", SHAPELESS])
def test_a_broken_record_is_named_in_one_line_and_left_out(tmp_path, text, capsys):
    folder = tmp_path / "suite" / "main" / "cell-1" / "efficiency-1"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(text)
    assert timed_calls(tmp_path, "test") == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "left out of the estimates" in line
    assert str(folder / "record.json") in line


def test_features_are_numbers_of_a_planned_cell(tmp_path):
    (tmp_path / "trained.yaml").write_text(TRAINED)
    cell = make_plan(*load_suite(tmp_path / "trained.yaml"), catalogue()).cells[0]
    named = dict(zip(FEATURES, features_of(cell.model_dump(mode="json"), 8), strict=True))
    assert named["dense"] + named["scan"] == 8 * sum(cell.forward_flops.values())
    assert (named["layers"], named["attention"], named["longest path"]) == (2, 0, 2 * 64)
    assert np.isfinite(list(named.values())).all()
