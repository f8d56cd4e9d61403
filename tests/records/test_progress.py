"""The progress file: who writes it, how often, and that nothing of it stays behind."""

from __future__ import annotations

import json
import math

import pytest

from zigma_bench.records import progress
from zigma_bench.records.progress import ProgressFile, StageProgress, read_progress
from zigma_bench.records.store import OWNER, PROGRESS, clear_leftovers, only_writer

START = {"event": "start", "stage": "train"}


def step(done, total=100):
    return {"event": "progress", "stage": "train", "done": done, "total": total, "text": f"loss {done}"}


def test_a_start_is_written_at_once_and_progress_at_most_once_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    with only_writer(tmp_path):
        file = ProgressFile(tmp_path, "cuda:1")
        file.note(START)
        assert read_progress(tmp_path) == StageProgress("train", "cuda:1", 100.0, 100.0)
        for now[0], done in ((100.5, 10), (101.0, 20), (101.5, 30)):
            file.note(step(done))
        assert read_progress(tmp_path) == StageProgress("train", "cuda:1", 100.0, 101.0, 20, 100, "loss 20", resumed=10)
        file.note({"event": "done", "stage": "train", "seconds": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_without_the_lock_nothing_is_written(tmp_path):
    ProgressFile(tmp_path, "cpu").note(START)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    ProgressFile(tmp_path / "gone", "cpu").note(START)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("clear", [clear_leftovers, lambda folder: only_writer(folder / "s/r/c").__enter__()])
def test_what_a_killed_owner_left_is_cleared(tmp_path, clear):
    cell = tmp_path / "s" / "r" / "c"
    cell.mkdir(parents=True)
    for name in (".lock", OWNER, PROGRESS):
        (cell / name).write_text("{}")
    clear(tmp_path)
    assert not (cell / PROGRESS).exists()


def test_the_pace_counts_from_where_a_stage_was_resumed():
    whole = StageProgress("train", "cpu", started=0.0, updated=10.0, done=60, total=100, resumed=50)
    assert whole.projected_seconds == pytest.approx(100.0)
    early = StageProgress("train", "cpu", started=0.0, updated=10.0, done=51, total=100, resumed=50)
    assert early.projected_seconds is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"stage": "train"}', json.dumps({"stage": 1, "device": "", "started": 0, "updated": 0}),
     json.dumps({"stage": "train", "device": "", "started": "now", "updated": 0})],
)  # fmt: skip
def test_another_text_counts_as_no_progress(tmp_path, text):
    (tmp_path / PROGRESS).write_text(text)
    assert read_progress(tmp_path) is None


def test_the_crash_tests_can_stop_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "WRITE_SECONDS", math.inf)
    with only_writer(tmp_path):
        file = ProgressFile(tmp_path, "cpu")
        file.note(START)
        file.note(step(50))
        found = read_progress(tmp_path)
    assert found is not None and found.done == 0
