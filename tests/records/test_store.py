"""Files: complete or missing, one writer at a time, and records that are read or refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from zigma_bench.errors import ComparisonRefused, NotReady
from zigma_bench.records import store
from zigma_bench.records.record import FORMAT, Measurement, Record


def record(**rest):
    facts = {"stage": "train", "identity": "abc", "cell": {}, "status": "done"}
    return Record(**{**facts, **rest})


def test_a_record_comes_back(tmp_path):
    made = record(measurements=(Measurement.of("fd", 1.5, "1", fingerprint={"n": 3}, raw=(1.0, 2.0)),))
    store.write_record(tmp_path, made)
    assert store.read_record(tmp_path, "abc") == made
    assert store.read_record(tmp_path, "other") is None
    assert store.read_record(tmp_path / "nowhere") is None


def test_nan_is_a_status_and_never_a_number():
    measurement = Measurement.of("fd", float("nan"), "1")
    assert (measurement.value, measurement.status) == (None, "nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        record(details={"x": float("nan")}).to_json()


@pytest.mark.parametrize("version", [FORMAT + 1, 0, "1", None])
def test_another_format_is_refused(tmp_path, version):
    data = json.loads(record().to_json())
    data["format"] = version
    (tmp_path / "record.json").write_text(json.dumps(data))
    with pytest.raises(ComparisonRefused, match="format that this version can't read") as caught:
        store.read_record(tmp_path)
    assert "record.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "measurements": [{}]}'])
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ComparisonRefused, match="record"):
        store.read_record(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        '"value": NaN', '"value": Infinity', '"value": -1e999', '"value": "1.5"', '"value": true', '"value": null',
        '"value": 1.5, "status": "nan"', '"value": 1.5, "raw": [NaN]',
    ],
)  # fmt: skip
def test_a_figure_that_no_stage_leaves_is_refused(tmp_path, change):
    """NaN isn't valid JSON, but Python reads it."""
    text = record(measurements=(Measurement.of("fd", 1.5, "1"),)).to_json()
    assert '"value": 1.5' in text
    without = text if "status" not in change else text.replace('"status": "ok",', "", 1)
    without = without if "raw" not in change else without.replace('"raw": [],', "", 1)
    (tmp_path / "record.json").write_text(without.replace('"value": 1.5', change))
    with pytest.raises(ComparisonRefused, match=r"fd is|fd has the value") as caught:
        store.read_record(tmp_path)
    assert caught.value.exit_code == 4
    assert "record.json" in str(caught.value)


@pytest.mark.parametrize("field", ["files", "inputs"])
def test_hashes_that_are_no_mapping_are_refused(tmp_path, field):
    data = json.loads(record().to_json()) | {field: [["a"]]}
    (tmp_path / "record.json").write_text(json.dumps(data))
    with pytest.raises(ComparisonRefused, match=f"{field} is .* and should be dict"):
        store.read_record(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    store.write_atomic(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_results_folder_that_is_a_file(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(NotReady, match="can't be written") as caught:
        store.check_writable(tmp_path / "results")
    assert caught.value.exit_code == 3


def test_one_writer_and_a_dead_owner_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    code = (
        "import sys, os, signal; from pathlib import Path; from zigma_bench.records import store\n"
        f"with store.only_writer(Path({str(tmp_path)!r})):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(NotReady, match="another process is working") as caught, store.only_writer(tmp_path):
            raise AssertionError("two writers")
        assert str(owner.pid) in str(caught.value)
        owner.kill()
        owner.wait()
    with store.only_writer(tmp_path):
        pass


def test_what_a_killed_owner_was_writing_is_cleared_away(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from zigma_bench.records import store\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with store.only_writer(folder):\n"
        "    store.write_atomic(folder / 'sample-1/part-0.npz', 'whole')\n"
        "    (folder / 'train-1/.checkpoint-1.9.tmp').mkdir(parents=True)\n"
        "    (folder / 'train-1/.checkpoint-1.9.tmp/.state.json.x.tmp').touch()\n"
        "    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    store.write_atomic(folder / 'sample-1/part-1.npz', 'half')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert list(tmp_path.rglob(".part-1.npz.*.tmp"))
    with store.only_writer(tmp_path):
        assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name not in (".lock", ".owner")] == [
            "part-0.npz"
        ]
        assert not list(tmp_path.rglob("*.tmp"))


def test_the_name_of_an_owner_that_was_killed_is_cleared_away(tmp_path):
    """A process killed after its last record leaves a cell that nobody needs to lock again."""
    dead, alive = tmp_path / "suite/dead", tmp_path / "suite/alive"
    dead.mkdir(parents=True)
    (dead / ".lock").touch()
    (dead / ".owner").write_text("a host process 1")
    with store.only_writer(alive):
        store.clear_leftovers(tmp_path)
        assert (alive / ".owner").exists()
    assert not (dead / ".owner").exists()
