"""The state of a run is read from its files: finished, failed, waiting, and at work in another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from zigma_bench.records.progress import ProgressFile
from zigma_bench.records.store import is_worked_on, only_writer, working_on
from zigma_bench.run.stages.context import StageContext
from zigma_bench.run.status import StatusReader


def states(toy):
    """The state of each stage of the trained cell."""
    (cell,) = [cell for cell in StatusReader().read(toy.main).cells if cell.facts.role == "cell"]
    return {stage: (one.state, one.reason) for stage, one in cell.stages.items()}


def test_a_finished_run(toy):
    state = StatusReader().read(toy.main)
    assert state.counts == {"done": 7, "failed": 0, "running": 0, "waiting": 0}
    assert [cell.label for cell in state.cells] == [cell.label for cell in toy.plan().cells]
    assert all(cell.is_done and cell.process is None for cell in state.cells)
    assert (state.is_worked_on, state.seconds_left) == (False, 0.0)
    assert all(one.seconds is not None for cell in state.cells for one in cell.stages.values())


def test_what_waits_and_what_failed(toy):
    toy.change(toy.stage("sample") / "record.json", status="failed", reason="a disk was full")
    (toy.stage("quality") / "record.json").unlink()
    assert states(toy) == {
        "train": ("done", None), "sample": ("failed", "a disk was full"), "quality": ("waiting", "sample failed"),
    }  # fmt: skip
    shutil.rmtree(toy.stage("sample"))
    assert states(toy)["sample"] == ("waiting", None)
    assert states(toy)["quality"] == ("waiting", "begun, not finished")
    assert StatusReader().read(toy.main).seconds_left > 0


def test_a_record_that_can_not_be_read_is_a_failure(toy):
    (toy.stage("quality") / "record.json").write_text("{")
    state, reason = states(toy)["quality"]
    assert state == "failed" and "this is not a record" in reason


def test_a_record_of_other_files_waits(toy):
    toy.change(toy.stage("sample") / "record.json", files={"samples.npy": "0" * 64})
    assert states(toy)["quality"] == ("waiting", "an earlier stage has written other files since")


def test_a_stage_at_work(toy):
    """The lock says that a process works on the cell; without it, progress of a killed process doesn't count."""
    for name in ("sample", "quality"):
        shutil.rmtree(toy.stage(name))
    with only_writer(toy.cell):
        assert states(toy) == {"train": ("done", None), "sample": ("running", None), "quality": ("waiting", None)}
        ProgressFile(toy.cell, "cuda:3").note({"event": "start", "stage": "sample"})
        state = StatusReader().read(toy.main)
        (cell,) = [cell for cell in state.cells if cell.process is not None]
        assert cell.process.endswith(f"process {os.getpid()}") and state.is_worked_on
        assert cell.stages["sample"].progress.device == "cuda:3"
        left = (toy.cell / ".progress").read_bytes()
    (toy.cell / ".progress").write_bytes(left)
    assert states(toy)["sample"] == ("waiting", None)


def test_a_stage_that_has_just_ended_is_done(toy):
    """Its progress stays until the next stage starts; a stage that runs again has an older record."""
    shutil.rmtree(toy.stage("quality"))
    record = toy.stage("sample") / "record.json"
    origin = json.loads(record.read_text())["provenance"]
    with only_writer(toy.cell):
        ProgressFile(toy.cell, "cpu").note({"event": "start", "stage": "sample"})
        assert states(toy)["sample"][0] == "running"
        toy.change(record, provenance={**origin, "started": origin["started"] + 1e6})
        assert states(toy)["sample"][0] == "done"
        assert states(toy)["quality"][0] == "running"


def test_the_worker_of_a_cell_writes_its_progress(toy):
    """The context of a stage sends each event to the parent, and writes it for other processes."""
    sent = []
    context = StageContext(toy.plan().cells[0], toy.cell, toy.folder, toy.device, sent.append, lambda: False)
    shutil.rmtree(toy.stage("sample"))
    with only_writer(toy.cell):
        context.emit({"event": "start", "stage": "sample"})
        context.progress_of("sample", 24)(12, "half")
        assert states(toy)["sample"][0] == "running"
    assert [event["event"] for event in sent] == ["start", "progress"]


def test_a_run_is_at_work_between_two_cells(toy):
    assert not is_worked_on(toy.main)
    with working_on(toy.main), working_on(toy.main):
        assert StatusReader().read(toy.main).is_worked_on
    assert not is_worked_on(toy.main)


def test_a_command_works_on_its_run_until_it_ends(toy, monkeypatch):
    from zigma_bench.run.executors import tasks

    seen = []
    find = tasks.find_due
    monkeypatch.setattr(tasks, "find_due", lambda *rest: seen.append(is_worked_on(toy.main)) or find(*rest))
    toy.run()
    assert seen and all(seen) and not is_worked_on(toy.main)


def test_the_time_left_is_from_stages_of_the_same_kind(toy):
    """The one stage that is left takes as long as the only other one of its name."""
    (floor,) = toy.main.glob("floor*")
    (ceiling,) = toy.main.glob("ceiling*")
    shutil.rmtree(toy.stage("quality"))
    shutil.rmtree(toy.stage("quality", floor))
    record = toy.stage("quality", ceiling) / "record.json"
    toy.change(record, provenance={**json.loads(record.read_text())["provenance"], "seconds": 30.0})
    assert StatusReader().read(toy.main).seconds_left == pytest.approx(60.0)
    shutil.rmtree(toy.stage("quality", ceiling))
    state = StatusReader().read(toy.main)
    assert state.seconds_left is None and "quality" in state.estimated_from


def test_the_command_prints_the_state_to_80_columns_and_as_json(toy):
    shutil.rmtree(toy.stage("quality"))

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "zigma_bench", "status", str(toy.results), *words],
            capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, text, _ = call()
    assert (
        code == 0 and "zigma · raster · seed 0" in text and "2 of 3 cells are done; stages: 6 done, 1 waiting" in text
    )
    table = text.partition("\n\n")[0].splitlines()
    assert len(table) == 6 and max(map(len, table)) <= 80
    (run,) = json.loads(call("--json")[1])["runs"]
    assert (run["suite"], run["run"], run["cells_done"]) == ("toy", "main", 2)
    code, _, error = call("--watch")
    assert code == 2 and "--watch" in error
