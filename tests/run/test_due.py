"""Which stages are due, and that no value is computed from a file other than the one in its record."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from zigma_bench.errors import NewerFormat
from zigma_bench.plan import STAGES
from zigma_bench.records import store
from zigma_bench.records.sealed import file_sha256
from zigma_bench.reports.table import read_table
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.executors import local, tasks
from zigma_bench.run.executors.local import LocalExecutor
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.prepare import prepare
from zigma_bench.run.run_plan import run_plan
from zigma_bench.system.device import Device

CPU = Device("cpu", "test")
SUITE = """# Does a toy run go through?
name: toy
data: {name: digits, validation: 100}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 4}
    scans: [raster]
seeds: [0]
budget: {images: 64}
train: {batch: 16, checkpoint_seconds: 1}
sample: {count: 24, batch: 12, evaluations: 2}
quality: [val-loss, {name: kid-efflite0, size: 64}]
"""


class Watcher:
    """Stores what a run reports."""

    def __init__(self):
        self.stages, self.events = [], []

    def begin(self, cell, stages):
        self.stages.append(stages)

    def event(self, cell, event):
        self.events.append(event)

    def end(self, cell):
        pass


class Run:
    """A suite in a folder, run in this process."""

    def __init__(self, folder: Path, capsys):
        (folder / "suite.yaml").write_text(SUITE)
        self.suite, self.results, self.capsys = folder / "suite.yaml", folder / "results", capsys

    def __call__(self, *settings, stages=STAGES):
        """The status of each cell, and what was reported."""
        self.capsys.readouterr()
        plan = prepare(self.suite, settings=settings, only=(), smoke=False)
        outcomes = run_plan(plan, self.results, (CPU,), Watcher(), LocalExecutor(LocalOptions()), stages=stages)
        failed = [outcome.reason for outcome in outcomes if outcome.status == "failed"]
        assert not failed, failed
        return [outcome.status for outcome in outcomes]

    def cell(self):
        return prepare(self.suite, settings=(), only=(), smoke=False).cells[0]

    def due(self, wanted=STAGES):
        return find_due(self.cell(), cell_folder(self.results / "toy" / "main", self.cell()), CPU, wanted)

    def file(self, pattern):
        (found,) = self.results.glob(f"toy/main/zigma*/{pattern}")
        return found

    def record(self, stage):
        return json.loads(self.file(f"{stage}-*/record.json").read_text())

    def change(self, stage, **facts):
        path = self.file(f"{stage}-*/record.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))

    def figures(self):
        return {
            str(path.relative_to(self.results)): json.loads(path.read_text())["measurements"]
            for path in self.results.glob("toy/main/*/*/record.json")
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a finished run, to be copied."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def run(whole, tmp_path, capsys, cells_in_this_process):
    found = Run(tmp_path, capsys)
    if not (whole / "results").exists():
        first = Run(whole, capsys)
        assert first() == ["done"] * 3
    shutil.copytree(whole / "results", found.results)
    return found


def test_records_name_the_files_by_their_hashes(run):
    weights, samples = run.file("train-*/ema.safetensors"), run.file("sample-*/samples.npy")
    train, sample, quality = (run.record(stage) for stage in ("train", "sample", "quality"))
    assert train["files"] == {path.name: file_sha256(path) for path in weights.parent.glob("*.safetensors")}
    assert sample["files"] == {"samples.npy": file_sha256(samples)}
    assert sample["inputs"] == {"train/ema.safetensors": file_sha256(weights)}
    assert quality["inputs"] == {**sample["inputs"], "sample/samples.npy": file_sha256(samples)}


def test_what_is_done_stays_done_without_its_files(run):
    """As in a clean clone of records."""
    for path in run.results.rglob("*"):
        if path.is_file() and path.name not in ("record.json", "table.json"):
            path.unlink()
    before = run.figures()
    assert run() == ["skipped"] * 3
    assert run.figures() == before
    assert not list(run.results.rglob("samples.npy"))


@pytest.mark.parametrize("lost", [("sample-*/samples.npy",), ("train-*/ema.safetensors", "sample-*/samples.npy")])
def test_a_lost_file_is_made_again_when_it_is_needed(run, lost):
    before = run.figures()
    shutil.rmtree(run.file("quality-*"))
    for pattern in lost:
        run.file(pattern).unlink()
    assert run() == ["done", "skipped", "skipped"]
    assert run.figures() == before
    assert run() == ["skipped"] * 3


@pytest.mark.parametrize(("pattern", "stages"), [
    ("sample-*/samples.npy", ("sample", "quality")),
    ("train-*/ema.safetensors", ("train", "quality")),
])  # fmt: skip
def test_an_altered_file_is_reported_and_made_again(run, pattern, stages):
    before = run.figures()
    shutil.rmtree(run.file("quality-*"))
    path = run.file(pattern)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    due = run.due()
    assert due.stages == stages
    assert [str(path) in text and "altered" in text for text in due.altered] == [True]
    assert run() == ["done", "skipped", "skipped"]
    assert run.figures() == before


def test_images_of_earlier_weights_are_drawn_again(run):
    """A training that ran again with other weights: earlier samples and measurements are due again."""
    weights = run.file("train-*/ema.safetensors")
    shutil.copy(weights.with_name("network.safetensors"), weights)
    run.change("train", files={path.name: file_sha256(path) for path in weights.parent.glob("*.safetensors")})
    images, before = np.load(run.file("sample-*/samples.npy")), run.figures()
    assert run.due().stages == ("sample", "quality")
    assert run() == ["done", "skipped", "skipped"]
    assert not np.array_equal(np.load(run.file("sample-*/samples.npy")), images)
    assert run.figures() != before


def test_a_table_shows_no_figure_of_earlier_weights(run):
    """Of a training that ran again alone; the images and values are from the earlier one."""
    (row,) = [row for row in read_table(run.results / "toy" / "main").rows if row.role == "cell"]
    assert row.status == "done" and row.metrics["val-loss"].mean is not None
    weights = run.file("train-*/ema.safetensors")
    run.change("train", files={"ema.safetensors": "0" * 64, "network.safetensors": file_sha256(weights)})
    run.change(
        "quality", inputs={"sample/samples.npy": run.record("sample")["files"]["samples.npy"]}
    )  # of images alone
    (row,) = [row for row in read_table(run.results / "toy" / "main").rows if row.role == "cell"]
    assert row.status == "missing" and "run the suite again" in row.reason and not row.metrics


def test_a_metric_of_images_alone_needs_no_weights(run):
    run.file("train-*/ema.safetensors").unlink()
    assert run("quality=[{name: kid-efflite0, size: 64}]") == ["done"] * 3
    assert not list(run.results.glob("toy/*/zigma*/train-*/ema.safetensors"))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}'])
def test_a_broken_record_is_reported_and_its_stage_done_again(run, text):
    before = run.figures()
    run.file("quality-*/record.json").write_bytes(text)
    due = run.due()
    assert due.stages == ("quality",) and "record.json: the record is broken" in due.altered[0]
    assert run() == ["done", "skipped", "skipped"]
    assert run.figures() == before


def test_a_record_of_a_newer_format_is_left_alone(run):
    run.change("quality", format=99)
    with pytest.raises(NewerFormat):
        run.due()
    with pytest.raises(AssertionError, match="format that this version can't read"):
        run()
    assert run.record("quality")["format"] == 99


def test_what_killed_processes_left_is_removed(run):
    train, suite, cache = run.file("train-*"), run.results / "toy", run.results / ".cache" / "features"
    (train / "checkpoint-000000004").mkdir()
    (train / "checkpoint-000000004" / "state.json").touch()
    (run.file("sample-*") / "part-0000000-0000012.npz").touch()
    (run.file("sample-*") / "written.json").touch()
    for folder in (train, suite, cache):
        (folder / ".a.json.x.tmp").touch()
        (folder / ".b.x.tmp").mkdir()
        (folder / ".b.x.tmp" / ".c.x.tmp").touch()
    assert run() == ["skipped"] * 3
    found = [path for path in run.results.rglob("*") if path.name.endswith(".tmp") or "checkpoint" in path.name]
    assert found == []
    assert not list(run.results.rglob("part-*")) and not list(run.results.rglob("written.json"))


def test_the_checkpoints_of_a_training_that_is_not_done_stay(run):
    train = run.file("train-*")
    (train / "record.json").unlink()
    (train / "checkpoint-000000002").mkdir()
    store.clear_leftovers(run.results)
    assert (train / "checkpoint-000000002").is_dir()


def test_what_a_living_process_writes_stays(tmp_path):
    with store.replace_file(tmp_path / "a.json") as file, store.temporary_folder(tmp_path / "b") as folder:
        child = multiprocessing.get_context("fork").Process(target=store.clear_temporary, args=(tmp_path,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert file.exists() and folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


def test_a_cell_of_another_process_is_waited_for(run, monkeypatch):
    """The other process finishes it meanwhile, so it doesn't run again here."""
    quality = run.file("quality-*")
    shutil.move(quality, run.results / "aside")
    folder = quality.parent
    looks = []

    def has_writer(asked):
        looks.append(asked)
        if len(looks) == 3:
            shutil.move(run.results / "aside", quality)
        return len(looks) < 4

    monkeypatch.setattr(tasks, "has_writer", has_writer)
    monkeypatch.setattr(local, "has_writer", has_writer)
    monkeypatch.setattr(local, "WAIT_SECONDS", 0)
    written = os.stat(quality.parent / "log.txt") if (quality.parent / "log.txt").exists() else None
    assert run() == ["skipped"] * 3
    assert looks == [folder] * 4 and written is None
    assert json.loads((quality / "record.json").read_text())["status"] == "done"


def test_a_lock_is_seen_from_another_process(tmp_path):
    assert not store.has_writer(tmp_path)
    with store.only_writer(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=_exit_with, args=(tmp_path,))
        child.start()
        child.join()
        assert child.exitcode == 7
    assert not store.has_writer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def _exit_with(folder: Path) -> None:
    os._exit(7 if store.has_writer(folder) else 1)
