"""Cells in warm processes and side by side come to the figures of cells in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "zigma_bench")
SUITE = """# Do the cells of a process change each other?
name: warm
data: {name: digits, validation: 100}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 4}
    scans: [raster, {name: zigzag, paths: 2}]
  - backbone: {name: dit, width: 32, depth: 2, patch: 4}
seeds: [0]
budget: {images: 320}
reference: {split: train}
train: {batch: 16, checkpoint_seconds: 0.05}
sample: {count: 24, batch: 8, evaluations: 2}
quality: [val-loss]
"""
PLUGIN = '''"""A scan like raster that does harm to the process in which its network is built."""
import os
import numpy as np
import zigma_bench


def poisonous(grid, layer, *, harm: str = "none"):
    """Raster, with harm in a worker process."""
    if layer == 1 and os.environ.get("ZIGMA_BENCH_HARM") == "yes" and "torch" in __import__("sys").modules:
        import torch
        if harm == "dtype":
            torch.set_float32_matmul_precision("medium")
        if harm == "exit":
            os._exit(9)
    return np.arange(grid.tokens)


@zigma_bench.hookimpl
def register_scans(register):
    register("poisonous", poisonous)
'''
LEFT_OVER = ("*.tmp", "checkpoint-*", "part-*", "written.json", ".owner", ".progress")


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *words), cwd=folder, capture_output=True, text=True, env=variables(**environment)
    )


def command(folder: Path, *words: str) -> list[str]:
    return [*PROGRAM, "run", "suite.yaml", *words]


def variables(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def figures(results: Path) -> dict[str, object]:
    found = {}
    for path in sorted(results.glob("*/*/*/*/record.json")):
        record = json.loads(path.read_text())
        found[str(path.relative_to(results))] = (record["status"], record["measurements"], record["files"])
    return found


def left_over(results: Path) -> list[Path]:
    return [path for pattern in LEFT_OVER for path in results.rglob(pattern)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The figures of cells that each had a process of its own."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "suite.yaml").write_text(SUITE)
    done = run(folder, "--executor-set", "warm=false")
    assert done.returncode == 0, done.stderr
    return figures(folder / "results")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


@pytest.mark.parametrize("words", [(), ("--devices", "cpu:2")])
def test_warm_processes_change_no_figure(place, alone, words):
    done = run(place, *words)
    assert done.returncode == 0, done.stderr
    assert figures(place / "results") == alone and len(alone) == 13
    assert "fresh process" not in done.stderr
    again = run(place, *words)
    assert again.returncode == 0 and again.stderr.count("already done") == 5


def test_a_killed_worker_is_replaced_without_a_failed_cell(place, alone):
    with subprocess.Popen(command(place, "--devices", "cpu:2"), cwd=place, stderr=subprocess.PIPE, text=True,
                          stdout=subprocess.DEVNULL, env=variables()) as process:  # fmt: skip
        wait_for(lambda: list((place / "results").glob("*/*/*/quality-*/record.json")), process)
        (victim, *_) = workers(process.pid)  # it has run a cell by now
        os.kill(victim, signal.SIGKILL)
        _, notices = process.communicate(timeout=120)
    assert process.returncode in (0, 1), notices
    assert process.returncode == 0 or "killed by SIGKILL" in notices
    assert run(place).returncode == 0
    assert figures(place / "results") == alone and left_over(place / "results") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_of_two_workers_ends_soon_and_continues(place, alone, number):
    with subprocess.Popen(command(place, "--devices", "cpu:2"), cwd=place, stderr=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, env=variables()) as process:  # fmt: skip
        wait_for(lambda: list((place / "results").glob("*/*/*/train-*/checkpoint-*/manifest.json")), process)
        children = workers(process.pid)
        began = time.monotonic()
        process.send_signal(number)
        process.wait(30)
        assert time.monotonic() - began < 10
    assert process.returncode == (75 if number != signal.SIGKILL else -signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), None)
    assert run(place, "--devices", "cpu:2").returncode == 0
    assert figures(place / "results") == alone and left_over(place / "results") == []


def workers(parent: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def wait_for(condition, process) -> None:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until and (process is None or process.poll() is None):
        time.sleep(0.01)
    assert condition()


def test_a_cell_that_harms_its_process_harms_only_itself(place, alone):
    """The poisonous cell comes first, so that the process of the others would be its own."""
    (place / "plugins").mkdir()
    (place / "plugins" / "poison.py").write_text(PLUGIN)
    cells = "scans: [{name: poisonous, harm: HARM}, raster, {name: zigzag, paths: 2}]"
    for harm, code in (("dtype", 0), ("exit", 1)):
        text = SUITE.replace("scans: [raster, {name: zigzag, paths: 2}]", cells.replace("HARM", harm))
        (place / "suite.yaml").write_text(
            text.replace("seeds: [0, 1]", "seeds: [0]") + "baseline: {backbone: zigma, scan: raster}\n"
        )
        done = run(place, "--plugins", "plugins", "--results", harm, ZIGMA_BENCH_HARM="yes")
        assert done.returncode == code, done.stderr
        found = {name: figure for name, figure in figures(place / harm).items() if "poisonous" not in name}
        assert {name: alone[name] for name in found} == found and len(found) == 13
        if harm == "exit":
            assert "zigma poisonous harm=exit" in done.stdout and "ended with code 9" in done.stdout
