"""Timing: which calls count, when a warm-up is stable, and the measurements of a real cell."""

from __future__ import annotations

import csv
import gc
import io
import json
import signal
import subprocess
import weakref
from pathlib import Path

import pytest

from zigma_bench.backbones.build import build_network
from zigma_bench.efficiency import calls, combine_rounds, measure, measure_efficiency, measure_round, timing
from zigma_bench.efficiency.calls import CALL_NAMES
from zigma_bench.efficiency.gpu import GpuMeter, find_meter
from zigma_bench.efficiency.measure import flop_rate
from zigma_bench.efficiency.timing import MOST_WARM_UPS, Timing, time_calls
from zigma_bench.errors import CellFailed, Interrupted, UsageError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.reports.render import table_footer, to_csv, to_json, to_markdown
from zigma_bench.reports.table import read_tables
from zigma_bench.run.executors.local import LocalExecutor
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.find_batch import BatchTrial, distinct_shapes, limit_of, run_trial, search_batch
from zigma_bench.run.run_plan import run_plan
from zigma_bench.suite import Efficiency, load_suite
from zigma_bench.system.device import Device

CPU = Device("cpu", "test")


@pytest.fixture
def clock(monkeypatch):
    """A clock that each call advances."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_the_first_call_is_separate_and_the_warm_up_ends_when_stable(clock):
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
    found, details = measure_efficiency(cell, build_network(cell, "cpu"), CPU, lambda done, text: None, lambda: False)
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
    (measurement,), _ = measure_efficiency(
        cell, build_network(cell, "cpu"), CPU, lambda done, text: None, lambda: False
    )
    assert measurement.status == "refused"
    assert "dopri5" in measurement.reason


def timed(cell):
    return cell.model_copy(update={"efficiency": Efficiency(sample_batch=1)})


def test_flops_are_those_of_the_formulas_with_the_scan_apart(write_suite):
    suite, source = load_suite(write_suite())
    zigma, *_, dit = (cell for cell in make_plan(suite, source, catalogue()).cells if cell.role == "cell")
    forward, scan = sum(zigma.forward_flops.values()), zigma.forward_flops["scan"]
    assert flop_rate(zigma, 3, 10.0) == {
        "flops": 3 * forward, "scan_flops": 3 * scan, "flops_per_second": 30.0 * forward,
        "matmul_flops_per_second": 30.0 * (forward - scan),
    }  # fmt: skip
    assert calls.make_timed_call("sample", timed(zigma), build_network(zigma, "cpu"), CPU).passes == 2  # evaluations
    assert flop_rate(dit, 2, 1.0)["scan_flops"] == 0


def test_collections_within_a_round_leave_out_what_was_alive_and_take_what_was_not():
    class Node: ...

    def cycle():
        node = Node()
        node.itself = node
        return weakref.ref(node)

    old = cycle()
    with timing.gc_frozen():
        assert old() is None
        assert gc.get_freeze_count() > 10_000
        new = cycle()
        timing.release_memory(CPU)
        assert new() is None
    assert gc.get_freeze_count() == 0


ALONE = """# What does it cost?
name: cost
compare:
  - backbone: {name: zigma, width: 32, depth: 1, patch: 2}
    scans: [raster, {name: zigzag, paths: 8}]
  - backbone: {name: dit, width: 32, depth: 1, patch: 2, heads: 1}
sample: {evaluations: 2}
efficiency: {stages: [latency, forward, forward-backward, train-step, sample], repeats: 3, rounds: 2, tokens: [16, 64],
  batch: [1, 2], backends: [torch, naive], channels: 3}
"""


@pytest.fixture
def alone(tmp_path):
    def plan(*replacements):
        text = ALONE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "cost.yaml").write_text(text)
        return make_plan(*load_suite(tmp_path / "cost.yaml"), catalogue())

    return plan


def test_an_efficiency_suite_is_a_product_and_an_order_free_backbone_runs_on_one_backend(alone):
    cells = alone().cells
    zigma = [cell for cell in cells if cell.scan is not None]
    assert (len(zigma), len(cells) - len(zigma)) == (2 * 2 * 2 * 2, 2 * 2)
    assert (
        len({cell.label for cell in cells})
        == len({cell.identity("efficiency", device_model="") for cell in cells})
        == 20
    )
    for cell in cells:
        assert cell.stages == ("efficiency",)
        assert (cell.height // 2) * (cell.width // 2) == cell.tokens and cell.channels == 3
        assert ("latency" in cell.efficiency.stages) == (cell.train.batch == 1)
        assert cell.efficiency.sample_batch == cell.train.batch


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tokens: [16, 64]", "tokens: [16, 63]", "63 is not one"),
        ("tokens: [16, 64],", "", "efficiency.tokens"),
        ("name: cost", "name: cost\nbudget: {images: 1}", "leave budget out"),
        ("name: cost", "name: cost\ndata: digits", "leave data out"),
        ("name: cost", "name: cost\ndata: [digits, gaussian-random-field]", "leave data out"),
        ("name: cost", "name: cost\nseeds: [0, 1]", "one seed"),
        ("batch: [1, 2]", "sample_batch: 3", "leave sample_batch out"),
        ("naive]", "nave]", "did you mean 'naive'"),
    ],
)
def test_what_makes_no_sense_is_refused(alone, old, new, words):
    with pytest.raises(UsageError, match=words):
        alone((old, new))


@pytest.mark.parametrize("key", ["data", "budget"])
def test_another_suite_needs_its_data_and_its_budget(write_suite, key):
    line = {"data": "data: {name: digits}\n", "budget": "budget: {images: 64}\n"}[key]
    with pytest.raises(UsageError, match=f"the key '{key}' is missing"):
        load_suite(write_suite((line, "")))


def test_what_makes_calls_faster_is_part_of_the_identity(alone):
    plain = alone().cells[0]
    compiled = plain.model_copy(update={"train": plain.train.model_copy(update={"compile": True})})
    graph = plain.model_copy(update={"sample": plain.sample.model_copy(update={"graph": True})})
    drawn = plain.model_copy(update={"sample": plain.sample.model_copy(update={"compile": True})})
    assert len({cell.identity("efficiency", device_model="") for cell in (plain, compiled, graph, drawn)}) == 4
    assert len({cell.identity("sample", device_model="") for cell in (plain, graph, drawn)}) == 1


@pytest.mark.parametrize(("part", "stage"), [("sample", "forward"), ("train", "train-step")])
def test_a_call_is_compiled_if_its_own_key_is_set(alone, monkeypatch, part, stage):
    """Regardless of the call before it. A stand-in replaces compilation, which doesn't work on this CPU."""
    plain, asked = alone().cells[0], []
    monkeypatch.setattr(calls, "compile_network", lambda network, device_type, key: asked.append(key))
    cell = plain.model_copy(update={part: getattr(plain, part).model_copy(update={"compile": True})})
    network = build_network(cell, "cpu")
    for name in ("forward", "train-step"):
        network.blocks.compile(backend="eager")  # as another call would have left it
        facts = calls.make_timed_call(name, cell, network, CPU).facts
        assert network.blocks._compiled_call_impl is None
        assert bool(facts.get("compile")) == (name == stage)
    assert asked == [f"{part}.compile"]


def test_every_stage_is_measured_beside_its_ceilings(alone):
    cell = alone().cells[0]
    found, details = measure_efficiency(cell, build_network(cell, "cpu"), CPU, lambda done, text: None, lambda: False)
    values = {m.name: m for m in found}
    assert all(m.value > 0 for m in found)
    for stage in CALL_NAMES:
        name, _ = measure.NAMES[stage]
        assert len(values[name].raw) == 3 and f"{stage}-peak-memory" in values
        assert details[stage]["first_call_seconds"] > 0
    rate = sum(cell.forward_flops.values()) - cell.forward_flops["scan"]
    forward = values["forward-images-per-second"].value
    assert values["forward-matmul-flops-per-second"].value == pytest.approx(rate * forward)
    assert values["latency"].value == pytest.approx(sum(values["latency"].raw) / 3)
    assert {"scan-bytes-per-second", "ceiling-matmul-flops-per-second", "ceiling-copy-bytes-per-second"} < set(values)
    assert not any("backend" in m.fingerprint or "batch" in m.fingerprint for m in found if "latency" not in m.name)


def test_labels_need_no_data_and_guidance_costs_two_passes_an_evaluation(alone):
    zigma, dit = (
        ("backbone: {name: zigma,", "backbone: {name: zigma, condition: class, classes: 7, null_class: true,"),
        ("backbone: {name: dit,", "backbone: {name: dit, condition: class, classes: 7,"),
    )
    plain = alone(zigma, dit)
    guided = alone(zigma, dit, ("evaluations: 2", "evaluations: 2, guidance: {scale: 2.0}"))
    assert all(cell.condition is not None and cell.condition.size == 7 for cell in guided.cells)
    for cells, passes in ((plain.cells, 2), (guided.cells, 4)):
        for cell in (cells[0], cells[-1]):
            seen, network = [], build_network(cell, "cpu")
            network.register_forward_pre_hook(lambda module, given, seen=seen: seen.append([*map(len, given)]))
            stages = {name: calls.make_timed_call(name, cell, network, CPU) for name in CALL_NAMES}
            assert stages["sample"].passes == passes
            for name, stage in stages.items():
                seen.clear()
                stage.call()
                size = 2 * stage.batch if passes == 4 and name == "sample" else stage.batch
                assert seen == [[size] * 3] * (2 if name == "sample" else 1)  # x, t and y


def test_out_of_memory_is_a_reason_and_the_other_calls_continue(alone, monkeypatch):
    def hungry(*given):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(calls, "training_call", hungry)
    cell = alone().cells[0]
    found, _ = measure_efficiency(cell, build_network(cell, "cpu"), CPU, lambda done, text: None, lambda: False)
    values = {m.name: m for m in found}
    assert values["train-images-per-second"].status == "refused"
    assert "out of memory" in values["train-images-per-second"].reason
    assert values["forward-images-per-second"].value and values["forward-backward-images-per-second"].value


def test_another_error_is_not_called_out_of_memory(alone, monkeypatch):
    def broken(*given):
        raise RuntimeError("shapes")

    monkeypatch.setattr(calls, "training_call", broken)
    cell = alone().cells[0]
    with pytest.raises(RuntimeError, match="shapes"):
        measure_round(cell, build_network(cell, "cpu"), CPU, lambda done, text: None, lambda: False)


def test_rounds_that_differ_are_unstable(alone):
    cell = alone().cells[0]
    one = measure_round(cell, build_network(cell, "cpu"), CPU, lambda done, text: None, lambda: False)
    steady = {**one["stages"]["forward"]["timing"], "seconds": [1.0] * 3, "stable": True}
    rounds = [
        {**one, "stages": {"forward": {**one["stages"]["forward"], "timing": {**steady, "seconds": [s] * 3}}}}
        for s in (1.0, 1.2)
    ]
    same, apart = (combine_rounds(cell, CPU, each)[0][0] for each in ([rounds[0]] * 2, rounds))
    assert same.reason is None and len(same.raw) == 6
    assert "unstable" in apart.reason and apart.value == pytest.approx(6 / 6.6)


HERE = LocalExecutor(LocalOptions())


class Silent:
    def __init__(self):
        self.seen = []

    def begin(self, cell, stages):
        self.seen.append((cell.label, bool(stages)))

    def event(self, cell, event):
        pass

    def end(self, cell):
        pass


def test_rounds_of_cells_alternate_and_the_last_leaves_the_record(alone, tmp_path):
    small = ("stages: [latency, forward, forward-backward, train-step, sample]", "stages: [forward]")
    lists = (("tokens: [16, 64]", "tokens: [16]"), ("batch: [1, 2]", "batch: [1]"), ("[torch, naive]", "[torch]"))
    plan = alone(small, *lists, ("[raster, {name: zigzag, paths: 8}]", "[raster]"))
    watcher = Silent()
    outcomes = run_plan(plan, tmp_path / "results", (CPU,), watcher, HERE, stages=("efficiency",))
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    first, second = (cell.label for cell in plan.cells)
    assert watcher.seen == [(first, True), (second, True)] * 2
    assert len(list((tmp_path / "results").glob("cost/main/*/*/round-*.json"))) == 4
    assert len(list((tmp_path / "results").glob("cost/main/*/*/record.json"))) == 2
    check_report(*read_tables(tmp_path / "results" / "cost" / "main"))


def test_a_backend_that_can_not_run_here_is_a_row_with_its_reason(alone, tmp_path):
    lists = (("tokens: [16, 64]", "tokens: [16]"), ("batch: [1, 2]", "batch: [1]"), ("[torch, naive]", "[mamba-ssm]"))
    small = ("stages: [latency, forward, forward-backward, train-step, sample]", "stages: [forward]")
    plan = alone(small, *lists, ("[raster, {name: zigzag, paths: 8}]", "[raster]")).only("zigma")
    (outcome,) = run_plan(plan, tmp_path / "results", (CPU,), Silent(), HERE, stages=("efficiency",))
    assert outcome.status == "failed"
    (table,) = read_tables(tmp_path / "results" / "cost" / "main")
    told = next(line for line in table_footer(table) if line.startswith("cell zigma raster"))
    assert "failed: efficiency: the backend 'mamba-ssm' doesn't run on this device; expected cuda; got 'cpu'" in told
    (record,) = (tmp_path / "results").glob("cost/main/*/*/record.json")
    assert json.loads(record.read_text())["provenance"]["backend"] is None


def check_report(table):
    """Rows name their setting; speeds have a better direction, limits of the device have none; no seed is missing."""
    text = to_markdown([table])
    assert "| backend | tokens | batch |" in text and "| torch | 16 | 1 |" in text
    assert "forward images/s ↑" in text and "matmul TFLOP/s |" in text
    assert "Nothing was trained" in text and "three seeds" not in text and "not known" not in text
    first, *_ = csv.DictReader(io.StringIO(to_csv([table])))
    assert (first["backend"], first["tokens"], first["batch"], first["data"]) == ("torch", "16", "1", "")
    assert json.loads(to_json([table]))["rows"][0]["setting"] == {"backend": "torch", "tokens": 16, "batch": 1}
    refused = next(line for line in table_footer(table) if line.startswith("scan-bytes-per-second"))
    assert refused.startswith("scan-bytes-per-second of dit, torch, 16 tokens, batch 1: ")


@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 8, 100])
def test_the_exact_search_ends_at_the_largest_batch_and_the_next(most):
    trials = search_batch(lambda batch: BatchTrial(batch, batch <= most, None, None), exact=True)
    assert max((t.batch for t in trials if t.fits), default=0) == most
    assert min(t.batch for t in trials if not t.fits) == most + 1
    assert len({t.batch for t in trials}) == len(trials)


@pytest.mark.parametrize(("most", "found"), [(0, 0), (1, 1), (2, 2), (3, 2), (7, 4), (8, 8), (100, 64)])
def test_the_search_tries_powers_of_two_alone(most, found):
    trials = search_batch(lambda batch: BatchTrial(batch, batch <= most, None, None))
    assert [trial.batch for trial in trials] == [2**n for n in range(len(trials))]
    assert max((trial.batch for trial in trials if trial.fits), default=0) == found


def test_batches_are_sought_once_for_cells_that_differ_in_them_alone(alone):
    assert len(distinct_shapes(alone())) == 2 * 2 * 2 + 2


def test_images_of_one_shape_are_one_to_a_batch(write_suite):
    digits = "data: {name: digits}"
    one, two = (
        make_plan(*load_suite(write_suite((digits, f"data: {data}"))), catalogue())
        for data in ("digits", "[digits, {name: digits, transforms: [{name: rotate, degrees: 90}]}]")
    )
    assert len(two.cells) == 2 * len(one.cells)
    assert [cell.backbone for cell in distinct_shapes(two)] == [cell.backbone for cell in distinct_shapes(one)]


def test_a_step_that_ends_without_a_word_is_named_by_its_signal(alone, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -signal.SIGSEGV, "", ""))
    with pytest.raises(CellFailed, match="a training step of 2 images fails: its process ended with SIGSEGV"):
        run_trial(alone().cells[0], 2, CPU, 2**30)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited through /proc")
def test_a_training_step_fits_in_much_memory_and_not_in_little(alone):
    cell = alone().cells[0]
    much, little = (run_trial(cell, 2, CPU, gib * 2**30 // 16) for gib in (64, 1))
    assert much.fits and 0 < much.peak_bytes < 4 * 2**30
    assert not little.fits and little.reason


def test_a_cpu_needs_an_explicit_limit():
    assert limit_of(CPU, 0.5) == 2**29
    with pytest.raises(UsageError, match="--memory"):
        limit_of(CPU, None)


def test_an_unsupported_gpu_reading_is_none_and_a_cpu_gives_the_reason():
    class Nvml:
        NVMLError = ValueError
        NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

        def __getattr__(self, name):
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                raise ValueError
            return lambda *given: [7] if name.endswith("Processes") else 5000

    meter = GpuMeter(Nvml(), "card")
    assert meter.joules() is None
    assert meter.state()["watts"] == 5.0 and meter.state()["processes"] == 1
    assert "NVIDIA" in find_meter(CPU).state()["why_not"]
