"""Timing: what is counted, when a warm-up is stable, and the measurements of a real cell."""

from __future__ import annotations

import pytest

from zigma_bench import efficiency
from zigma_bench.cell import build
from zigma_bench.device import Device
from zigma_bench.efficiency import MOST_WARM_UPS, Timing, flop_rate, measure_efficiency, time_calls
from zigma_bench.errors import Interrupted
from zigma_bench.plan import make_plan
from zigma_bench.plugins import catalogue
from zigma_bench.suite import load_suite

CPU = Device("cpu", "test")


@pytest.fixture
def clock(monkeypatch):
    """A clock that a call moves on."""
    now = [0.0]
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: now[0])
    return now


def test_the_first_call_stands_apart_and_the_warm_up_ends_when_stable(clock):
    lengths = iter([9.0, 3.0, 1.0, 1.05, 1.02, 1.0, 1.0, 1.3, 1.0])

    def call():
        clock[0] += next(lengths)

    timing = time_calls(call, 4, CPU, lambda: False)
    assert timing.first_call_seconds == 9.0
    assert (timing.warm_ups, timing.stable) == (4, True)
    assert timing.seconds == pytest.approx((1.0, 1.0, 1.3, 1.0))


def test_a_warm_up_that_never_settles_is_called_unstable(clock):
    count = [0]

    def call():
        count[0] += 1
        clock[0] += 1.0 + count[0] % 2

    timing = time_calls(call, 3, CPU, lambda: False)
    assert (timing.warm_ups, timing.stable) == (MOST_WARM_UPS, False)


def test_throughput_is_images_over_total_time():
    timing = Timing((1.0, 2.0, 1.0), 5.0, 3, True)
    assert timing.throughput(8) == 6.0
    assert timing.details()["median_seconds"] == 1.0


def test_a_real_cell(write_suite):
    path = write_suite(("quality: [val-loss]", "quality: [val-loss]\nefficiency: {repeats: 3, sample_batch: 4}"))
    suite, source = load_suite(path)
    cell = make_plan(suite, source, catalogue()).cells[0]
    found, details = measure_efficiency(cell, build(cell, "cpu"), CPU, lambda done, text: None, lambda: False)
    values = {m.name: m for m in found}
    assert set(values) == {
        "train-images-per-second", "sample-images-per-second", "train-step-peak-memory", "sample-peak-memory",
    }  # fmt: skip
    assert len(values["train-images-per-second"].raw) == 3
    assert values["sample-images-per-second"].fingerprint["evaluations"] == 2
    assert values["train-images-per-second"].value == pytest.approx(16 * 3 / sum(values["train-images-per-second"].raw))
    assert details["sample"]["repeats"] == 3


def test_a_stop_is_heard_between_two_calls():
    with pytest.raises(Interrupted):
        time_calls(lambda: None, 3, CPU, lambda: True)


def test_dopri5_is_refused_with_the_reason(write_suite):
    path = write_suite(
        ("quality: [val-loss]", "efficiency: {repeats: 3, stages: [sample]}"), ("evaluations: 2", "solver: dopri5")
    )
    suite, source = load_suite(path)
    cell = make_plan(suite, source, catalogue()).cells[0]
    (measurement,), _ = measure_efficiency(cell, build(cell, "cpu"), CPU, lambda done, text: None, lambda: False)
    assert measurement.status == "refused"
    assert "dopri5" in measurement.reason


def test_flops_are_those_of_the_formulas_with_the_scan_apart(write_suite):
    suite, source = load_suite(write_suite())
    zigma, *_, dit = (cell for cell in make_plan(suite, source, catalogue()).cells if cell.role == "cell")
    forward, scan = sum(zigma.forward_flops.values()), zigma.forward_flops["scan"]
    assert flop_rate(zigma, "train-step", 10.0) == {
        "flops": 3 * forward, "scan_flops": 3 * scan, "flops_per_second": 30.0 * forward
    }  # fmt: skip
    assert flop_rate(zigma, "sample", 1.0)["flops"] == 2 * forward  # two evaluations
    assert flop_rate(dit, "sample", 1.0)["scan_flops"] == 0
