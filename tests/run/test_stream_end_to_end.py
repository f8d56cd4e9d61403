"""A suite on a stream as a user runs it: a kill in the middle of an epoch changes no figure and leaves no process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

PROGRAM = [sys.executable, "-m", "zigma_bench", "train"]
STREAM = "{{name: huggingface, path: parquet, data_files: {files}, resolution: 8, channels: 1, streaming: true, validation: 40, count: 160, shuffle_buffer: 50}}"  # noqa: E501


def shards(folder: Path) -> str:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for shard in range(2):
        cells = []
        for number in range(100):
            stream = io.BytesIO()
            pixels = np.random.RandomState(100 * shard + number).randint(0, 256, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            cells.append({"bytes": stream.getvalue(), "path": None})
        pq.write_table(pa.table({"image": pa.array(cells, kind)}), folder / f"train-{shard:05}-of-00002.parquet")
    return str(folder / "train-*.parquet")


def train_record(results: Path) -> dict[str, object]:
    (file,) = results.glob("*/*/zigma*/train-*/record.json")
    found: dict[str, object] = json.loads(file.read_text())
    return found


def learned(results: Path) -> list[object]:
    record = train_record(results)
    details = record["details"]
    assert isinstance(details, dict)
    return [record["measurements"], details["curve"], record["files"]]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_kill_changes_nothing_and_leaves_no_process(write_suite, tmp_path):
    replaced = [
        ("{name: digits}", STREAM.format(files=shards(tmp_path))),
        ("[raster, {name: zigzag, paths: 8}]\n  - backbone: {name: dit, width: 32, depth: 2, patch: 2}", "[raster]"),
        ("seeds: [0, 1]", "seeds: [0]"),
        ("{images: 64}", "{images: 2400}"),
    ]
    alone = write_suite(*replaced, ("{batch: 16}", "{batch: 16, workers: 0}"), name="alone.yaml")
    done = subprocess.run([*PROGRAM, alone, "--results", tmp_path / "a"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed = write_suite(*replaced, ("{batch: 16}", "{batch: 16, checkpoint_seconds: 0.1}"))
    with subprocess.Popen([*PROGRAM, killed, "--results", tmp_path / "b"], stderr=subprocess.DEVNULL) as run:
        until = time.monotonic() + 60
        while not list((tmp_path / "b").glob("*/*/*/train-*/checkpoint-*/manifest.json")) and time.monotonic() < until:
            time.sleep(0.01)
        run.kill()
    until = time.monotonic() + 20
    while processes_of(tmp_path / "b") and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes_of(tmp_path / "b")
    again = subprocess.run([*PROGRAM, killed, "--results", tmp_path / "b"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert learned(tmp_path / "a") == learned(tmp_path / "b")
    for results, workers in ((tmp_path / "a", 0), (tmp_path / "b", 1)):
        details = train_record(results)["details"]
        assert isinstance(details, dict) and details["input_workers"] == workers and 0 <= details["input_wait"] <= 1


def processes_of(results: Path) -> list[str]:
    """The processes whose standard error is a log below a folder: cells and what they started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(results) in str((process / "fd" / "2").readlink()):
                found.append(process.name)
        except OSError:
            continue
    return found
