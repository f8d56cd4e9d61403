"""The executor on this machine: which job runs where and when, with workers that only write records."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time

import pytest

from zigma_bench.errors import Interrupted, NotReady, UsageError
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.run.executors import local
from zigma_bench.run.executors.local import LocalExecutor, order_cells
from zigma_bench.run.executors.open_executor import open_executor, parse_timeouts
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.executors.worker_process import threads_per_worker
from zigma_bench.run.prepare import prepare
from zigma_bench.run.run_plan import run_plan
from zigma_bench.system import device as devices
from zigma_bench.system.device import Device, find_devices

WARM = LocalOptions()
STAGES = ("train", "sample", "quality", "efficiency")
GPUS = (Device("cuda:0", "a card"), Device("cuda:1", "a card"))
SUITE = """# In which order do cells run?
name: toy
data: {name: digits, validation: 100}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 4}
    scans: [raster, {name: zigzag, paths: 2}]
seeds: [0, 1]
budget: {images: 64}
train: {batch: 16}
sample: {count: 24, batch: 12, evaluations: 2}
quality: [val-loss]
"""


class Silent:
    def __init__(self):
        self.notices, self.begun, self.ended = [], [], []

    def begin(self, cell, stages):
        self.begun.append(cell.label)

    def event(self, cell, event):
        if event["event"] == "notice":
            self.notices.append((cell.label, event["text"]))

    def end(self, cell):
        self.ended.append(cell.label)


class FakeWorker:
    """Writes the records of a job, or does what `faults` says for the cell and the stage: `crash`, `hang`, `known`."""

    made, jobs_sent, faults = [], [], {}

    def __init__(self, device, first_log, *, threads):
        self.device, self.jobs, self.code = device, 0, 0
        self.number = len(self.made)
        handle, self.input = os.pipe()
        self.output = os.fdopen(handle, "rb")
        self.made.append(self)

    def send(self, job, place):
        self.jobs += 1
        alive = [worker.number for worker in self.made if worker.input is not None]
        self.jobs_sent.append((self.number, self.device.name, job.task.cell.label, job.stages, alive))
        fault = self.faults.get((job.task.cell.label, job.stages[0]))
        if fault is not None and fault[0] == "hang":
            self._emit({"event": "start", "stage": job.stages[0]})
            return
        if fault is not None and (self.jobs in fault[1] or not fault[1]):
            if fault[0] == "known":
                self._emit({"event": "failed", "stage": job.stages[0], "text": "NaN", "known": True})
            self._end(1 if fault[0] == "known" else -9)
            return
        cell = job.task.cell
        for stage in job.stages:
            identity = cell.identity(stage, device_model=place.device.model_name)
            folder, facts = stage_folder(job.task.folder, stage, identity), cell.model_dump(mode="json")
            write_record(folder, Record(stage, identity, facts, "done", (Measurement.of("x", 1.0, "1"),)))
        self._emit({"event": "end", "retired": None})

    def _emit(self, event):
        os.write(self.input, json.dumps(event).encode() + b"\n")

    def _end(self, code):
        self.code = code
        if self.input is not None:
            os.close(self.input)
            self.input = None

    def read(self):
        data = os.read(self.output.fileno(), 65536)
        return [json.loads(line) for line in data.splitlines()], not data

    def wait(self):
        with contextlib.suppress(OSError):
            self.output.close()
        return self.code

    def dismiss(self):
        self._end(0)

    def interrupt(self):
        self._end(75)

    def is_alive(self):
        return self.input is not None

    def kill(self):
        self._end(-9)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WorkerProcess", FakeWorker)
    monkeypatch.setattr(FakeWorker, "made", [])
    monkeypatch.setattr(FakeWorker, "jobs_sent", [])
    monkeypatch.setattr(FakeWorker, "faults", {})
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE)

    def run(*settings, on=GPUS[:1], options=WARM, **rest):
        plan = prepare(suite, settings=settings, only=(), smoke=False)
        watcher = Silent()
        outcomes = run_plan(plan, tmp_path / "r", on, watcher, LocalExecutor(options), stages=STAGES, **rest)
        return {o.cell.label: (o.status, o.reason) for o in outcomes}, watcher

    return run


def jobs(*, stage=None):
    return [(worker, device, label, stages) for worker, device, label, stages, _ in FakeWorker.jobs_sent
            if stage is None or stage in stages]  # fmt: skip


def test_a_gpu_trains_in_one_warm_process_and_measures_in_another(bench):
    outcomes, watcher = bench()
    assert [status for status, _ in outcomes.values()] == ["done"] * 6
    assert len({worker for worker, *_ in jobs(stage="train")}) == 1
    assert len({worker for worker, *_ in jobs(stage="quality")}) == 1
    assert {stages for *_, stages in jobs()} == {("train", "sample"), ("sample",), ("quality",)}
    assert len(FakeWorker.made) == 2
    assert sorted(watcher.ended) == sorted(outcomes)


def test_all_rows_of_a_seed_run_before_the_next_seed(bench):
    bench()
    seeds = [label[-1] for *_, label, _ in jobs(stage="sample")]
    assert seeds == sorted(seeds) and len(seeds) == 6


def test_each_gpu_has_its_own_cells(bench):
    bench(on=GPUS)
    assert {device for _, device, *_ in jobs(stage="train")} == {"cuda:0", "cuda:1"}
    assert len(jobs(stage="train")) == 4


def test_without_overlap_one_process_does_all_stages(bench):
    bench(options=LocalOptions(overlap=False))
    assert {stages for *_, stages in jobs()} == {("train", "sample", "quality"), ("sample", "quality")}
    assert len(FakeWorker.made) == 1


def test_a_budget_in_seconds_is_not_shared_with_a_measurement(bench):
    bench("budget={seconds: 5}")
    assert {stages for *_, stages in jobs()} == {("train", "sample", "quality"), ("sample", "quality")}


def test_without_warm_processes_every_job_has_its_own(bench):
    bench(options=LocalOptions(overlap=False, warm=False))
    assert [worker for worker, *_ in jobs()] == list(range(6))


def test_efficiency_is_last_and_alone(bench):
    bench("efficiency={stages: [latency], rounds: 2}", on=GPUS)
    sent = FakeWorker.jobs_sent
    first = next(number for number, job in enumerate(sent) if "efficiency" in job[3])
    assert all(job[3] == ("efficiency",) for job in sent[first:]) and len(sent[first:]) == 4
    assert all(alive == [worker] for worker, *_, alive in sent[first:])  # no other process is alive
    assert len({worker for worker, *_ in sent[first:]}) == 4


def test_a_crash_in_a_used_process_costs_only_time(bench):
    label = "zigma · zigzag paths=2 · seed 0"
    FakeWorker.faults = {(label, "train"): ("crash", (2,))}  # as the second job of a process, not as the first
    outcomes, watcher = bench()
    assert {status for status, _ in outcomes.values()} == {"done"}
    ((noted, text),) = watcher.notices
    assert noted == label and "SIGKILL" in text and text.endswith("runs again alone in a fresh process")
    *_, (again, _, _, _, alive) = [job for job in FakeWorker.jobs_sent if job[2] == label and "train" in job[3]]
    assert FakeWorker.made[again].jobs == 1 and alive == [again]


def test_a_crash_in_a_fresh_process_fails_the_cell_alone(bench):
    label = "zigma · zigzag paths=2 · seed 0"
    FakeWorker.faults = {(label, "train"): ("crash", ())}
    outcomes, watcher = bench()
    status, reason = outcomes.pop(label)
    assert status == "failed" and "killed by SIGKILL" in reason and len(watcher.notices) == 1
    assert {status for status, _ in outcomes.values()} == {"done"}
    assert len([job for job in jobs(stage="train") if job[2] == label]) == 2


def test_crashes_of_cells_side_by_side_cost_only_time(bench):
    """Memory may have run out for both; each of them runs again alone on the host."""
    rows = ("zigma · raster · seed 0", "zigma · zigzag paths=2 · seed 0")
    FakeWorker.faults = {(label, "train"): ("crash", (1,)) for label in rows}

    class OnceBroken(FakeWorker):
        def send(self, job, place):
            if len([one for one in self.jobs_sent if one[2] == job.task.cell.label and "train" in one[3]]) == 1:
                FakeWorker.faults = {}
            super().send(job, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "WorkerProcess", OnceBroken)
        outcomes, _ = bench(on=(Device("cpu", "a processor"),) * 2)
    assert {status for status, _ in outcomes.values()} == {"done"}
    again = [job for job in FakeWorker.jobs_sent if job[2] in rows][2:]
    assert again and all(alive == [worker] for worker, *_, alive in again)


def test_a_disk_error_fails_only_its_cell(bench, monkeypatch):
    label = "zigma · raster · seed 1"

    class FullDisk(FakeWorker):
        def send(self, job, place):
            if job.task.cell.label == label:
                raise OSError(28, "No space left on device", str(job.log))
            super().send(job, place)

    monkeypatch.setattr(local, "WorkerProcess", FullDisk)
    outcomes, _ = bench(on=GPUS)
    status, reason = outcomes.pop(label)
    assert status == "failed" and "log.txt" in reason
    assert {status for status, _ in outcomes.values()} == {"done"}


def test_files_that_change_during_the_run_fail_the_cell(bench):
    """The record of the quality is removed while efficiency is measured."""

    class Removing(FakeWorker):
        def send(self, job, place):
            super().send(job, place)
            if job.stages == ("efficiency",):
                for record in job.task.folder.glob("quality-*/record.json"):
                    record.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "WorkerProcess", Removing)
        outcomes, _ = bench("efficiency={stages: [latency]}")
    reasons = {reason for label, (status, reason) in outcomes.items() if label.startswith("zigma")}
    assert {reason.partition(" is due again: ")[2] for reason in reasons} == {
        "the files of the cell change during the run"
    }


def test_the_start_of_a_process_is_no_part_of_a_timeout(bench):
    """A worker that has not begun a stage can't exceed its timeout."""
    label = "zigma · raster · seed 1"

    class Slow(FakeWorker):
        def send(self, job, place):
            if job.task.cell.label == label and "train" in job.stages:
                self.late = job, place
                threading.Timer(0.5, lambda: FakeWorker.send(self, job, place)).start()
                return
            super().send(job, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "WorkerProcess", Slow)
        outcomes, _ = bench(timeouts={"train": 0.2})
    assert {status for status, _ in outcomes.values()} == {"done"}


def test_a_fault_that_the_program_found_is_not_tried_again(bench):
    label = "zigma · raster · seed 1"
    FakeWorker.faults = {(label, "train"): ("known", ())}
    outcomes, watcher = bench()
    assert outcomes[label] == ("failed", "train: NaN") and watcher.notices == []
    assert len([job for job in jobs(stage="train") if job[2] == label]) == 1


def test_a_stage_that_exceeds_its_timeout_fails_with_the_reason(bench, tmp_path):
    label = "zigma · raster · seed 1"
    FakeWorker.faults = {(label, "train"): ("hang", ())}
    outcomes, _ = bench(timeouts={"train": 0.2})
    status, reason = outcomes.pop(label)
    assert status == "failed" and reason.startswith("train: it took longer than its timeout of 0.2 s")
    assert {status for status, _ in outcomes.values()} == {"done"}
    (record,) = (tmp_path / "r").glob("toy/main/zigma-raster-seed-1-*/train-*/record.json")
    assert json.loads(record.read_text())["status"] == "failed"


def test_an_interrupted_worker_interrupts_the_run_and_ends_the_others(bench, monkeypatch):
    FakeWorker.faults = {("zigma · raster · seed 0", "train"): ("hang", ())}
    began = time.monotonic()

    class Impatient(FakeWorker):
        def send(self, job, place):
            super().send(job, place)
            if "zigzag" in job.task.cell.label:
                raise KeyboardInterrupt

    monkeypatch.setattr(local, "WorkerProcess", Impatient)
    with pytest.raises(Interrupted):
        bench(on=GPUS)
    assert not any(worker.is_alive() for worker in FakeWorker.made) and time.monotonic() - began < 5


def test_the_longest_cells_come_first_on_several_devices(bench, tmp_path, monkeypatch):
    class Estimates:
        def __init__(self, results, device): ...

        def __call__(self, cell):
            return type("Guess", (), {"seconds": 10.0 if cell.scan and cell.scan.name == "zigzag" else 1.0})

    monkeypatch.setattr(local, "Estimator", Estimates)
    plan = prepare(tmp_path / "suite.yaml", settings=(), only=(), smoke=False)
    place = type("Place", (), {"devices": GPUS, "device": GPUS[0], "results": tmp_path})
    assert [c.label for c in order_cells(plan.cells, place)][:2] == [
        "zigma · zigzag paths=2 · seed 0", "zigma · raster · seed 0",
    ]  # fmt: skip


@pytest.mark.parametrize(("requested", "names"), [
    ("all", ["cuda:0", "cuda:1"]), ("1,0", ["cuda:1", "cuda:0"]), ("cpu:3", ["cpu"] * 3), ("cuda:1", ["cuda:1"]),
    ("0", ["cuda:0"]),
])  # fmt: skip
def test_devices_are_named(monkeypatch, requested, names):
    monkeypatch.setattr(devices, "gpu_names", lambda: ("a card", "a card"))
    assert [device.name for device in find_devices(requested)] == names


@pytest.mark.parametrize(("requested", "error", "words"), [
    ("0,0", UsageError, "listed twice"), ("0,7", NotReady, "no device cuda:7"), ("gpu", UsageError, "no such device"),
    ("cpu:0", UsageError, "no such device"), ("0,2", UsageError, "devices of one model; got 'a card, another card'"),
])  # fmt: skip
def test_wrong_devices_are_refused(monkeypatch, requested, error, words):
    monkeypatch.setattr(devices, "gpu_names", lambda: ("a card", "a card", "another card"))
    with pytest.raises(error, match=words):
        find_devices(requested)


def test_several_workers_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("zigma_bench.run.executors.worker_process.usable_cores", lambda: 12)
    cpu = Device("cpu", "a processor")
    assert threads_per_worker((cpu,), 1) is None
    assert threads_per_worker((cpu, cpu), 2) == 6
    assert threads_per_worker(GPUS, 4) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_per_worker((cpu, cpu), 2) is None


def test_a_quota_of_a_container_limits_the_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "QUOTAS", tmp_path)
    monkeypatch.setattr(devices, "core_count", lambda: 64)
    assert devices.usable_cores() == 64
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert devices.usable_cores() == 64
    (tmp_path / "cpu.max").write_text("1600000 100000\n")
    assert devices.usable_cores() == 16


def test_the_options_of_an_executor_are_checked():
    assert open_executor("local", ["warm=false"]).options == LocalOptions(warm=False)
    for settings, words in (
        (["cold=1"], "no option 'cold'"),
        (["warm"], "KEY=VALUE"),
        (["warm=maybe"], "true or false"),
    ):
        with pytest.raises(UsageError, match=words):
            open_executor("local", settings)
    with pytest.raises(UsageError, match=r"no executor is called 'locla'.*did you mean 'local'"):
        open_executor("locla")


def test_timeouts_are_checked():
    assert parse_timeouts(["train=60", "quality=1.5"]) == {"train": 60.0, "quality": 1.5}
    for text, words in (("train", "STAGE=SECONDS"), ("trian=3", "did you mean 'train'"), ("train=0", "above 0"),
                        ("train=soon", "above 0"), ("train=inf", "above 0")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            parse_timeouts([text])
