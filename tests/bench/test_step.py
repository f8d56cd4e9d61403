"""The benchmark of whole steps: every case once, ratios to each peer, no speed for a backend with wrong results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zigma_bench.bench import step
from zigma_bench.bench.step import StepShape, bench_step, build_bench_network
from zigma_bench.errors import CellFailed, NotReady, UsageError
from zigma_bench.layers.speed import Graphed, compile_network
from zigma_bench.ops.selective_scan import torch_blocks
from zigma_bench.system.device import Device

CPU = Device("cpu", "a processor")


def test_rows_contain_ratios_to_every_peer() -> None:
    rows = bench_step(CPU, shapes=[StepShape(1, 16)], paths=["raster"], repeats=3)
    assert [(row.op, row.direction, row.backend) for row in rows] == [
        (name, direction, backend)
        for name, backend in (("zigma", rows[0].backend), ("zigma", "torch"), ("dit", "attention"))
        for direction in ("forward", "train-step")
    ]
    for row in rows:
        assert row.median_ms > 0 and row.memory_gib is None and len(row.ratio) == 2
        for peer, ratio in row.ratio.items():
            (other,) = [
                r for r in rows if r.direction == row.direction and peer in (r.op, f"{r.op} {r.backend}") and r != row
            ]
            assert ratio == pytest.approx(other.median_ms / row.median_ms)


def test_the_networks_that_are_compared_are_about_as_large() -> None:
    counts = {
        name: sum(p.numel() for p in build_bench_network(name, backend, path, StepShape(1, 16), CPU).parameters())
        for name, backend, path in (("zigma", "torch", "raster"), ("dit", step.ATTENTION, step.ATTENTION))
    }
    assert 0.8 < counts["zigma"] / counts["dit"] < 1.25


def test_no_speed_of_a_wrong_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch_blocks.torch_selective_scan
    monkeypatch.setattr(torch_blocks, "torch_selective_scan", lambda arguments: right(arguments) * 1.001)
    with pytest.raises(CellFailed, match="the backend 'torch' is wrong"):
        bench_step(CPU, shapes=[StepShape(1, 16)], repeats=3)


@pytest.mark.parametrize("text", ["16", "0x16", "2x15", "2x-16", "axb", "1x2x3"])
def test_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match="expected BxL with a square L"):
        StepShape.parse(text)


def test_an_unknown_path() -> None:
    with pytest.raises(UsageError, match="expected raster, zigzag, random; got 'zigzog'"):
        bench_step(CPU, paths=["zigzog"])


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zigma_bench", "bench", "step", "--device", "cpu", "--shape", "1x16"]
    command += ["--path", "raster", "--repeats", "3", "--results", str(tmp_path)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    (record,) = (tmp_path / "kernels").glob("step-*.json")
    assert json.loads(record.read_text())["rows"] == rows
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "zigma" in told and "attention" in told and "record:" in told


def test_what_a_cpu_cannot_do_is_refused() -> None:
    network = build_bench_network("dit", step.ATTENTION, step.ATTENTION, StepShape(1, 16), CPU)
    with pytest.raises(NotReady, match=r"train.compile needs an NVIDIA GPU.*omit train.compile"):
        compile_network(network, "cpu")
    with pytest.raises(NotReady, match=r"sample.compile needs an NVIDIA GPU.*omit sample.compile"):
        compile_network(network, "cpu", "sample.compile")
    with pytest.raises(NotReady, match=r"sample.graph needs an NVIDIA GPU.*omit sample.graph"):
        Graphed(network, "cpu")
