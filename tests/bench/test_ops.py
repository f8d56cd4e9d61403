"""The benchmark reports no speed for a backend with wrong results, and its peer computes the same as the operator."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from zigma_bench.bench import cases, ops, pscan
from zigma_bench.bench.cases import (
    Shape,
    check_against_naive,
    find_path,
    random_inputs,
    runnable_backends,
    with_gradients,
)
from zigma_bench.errors import CellFailed, UsageError
from zigma_bench.system.device import Device

CPU = Device("cpu", "a processor")


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 63, 64, 100])
def test_the_parallel_scan_is_the_recurrence(length):
    rng = torch.Generator().manual_seed(0)
    decays, x = torch.rand(2, length, 3, 4, generator=rng), torch.randn(2, length, 3, 4, generator=rng)
    h, states = torch.zeros(2, 3, 4), []
    for t in range(length):
        h = decays[:, t] * h + x[:, t]
        states.append(h)
    pscan.accumulate_(decays.clone(), x)
    torch.testing.assert_close(x, torch.stack(states, 1))


@pytest.mark.parametrize("op", ["scan", "conv"])
def test_every_backend_passes_the_gate(op):
    for backend in runnable_backends(op, "cpu"):
        check_against_naive(op, backend, device="cpu", dtype=torch.float32)


def test_the_peer_without_gradients_gives_the_same_output():
    shape = Shape(2, 33, 8)
    given, path = random_inputs("scan", shape, device="cpu", dtype=torch.float32), torch.randperm(33)
    grad = torch.ones(2, 33, 8)
    leaves = {name: tensor.requires_grad_() for name, tensor in given.items()}
    expected = with_gradients("scan", "pscan", leaves, path, grad)[0]
    with torch.no_grad():
        torch.testing.assert_close(cases.operator_call("scan", "pscan", given, path), expected)


def test_no_speed_of_a_wrong_backend(monkeypatch):
    right = pscan.scan
    monkeypatch.setattr(pscan, "scan", lambda **given: right(**given) * 1.001)
    with pytest.raises(
        CellFailed, match="the backend 'pscan' is wrong, so its speed is not reported: the output of scan"
    ):
        ops.bench_ops(CPU, ops=["scan"], shapes=[Shape(1, 4, 8)], seconds=0.01)


def test_rows_contain_ratios_to_every_peer():
    rows = ops.bench_ops(CPU, shapes=[Shape(1, 16, 8)], paths=["raster"], seconds=0.01)
    assert {(row.op, row.direction) for row in rows} == {(op, d) for op in ("scan", "conv") for d in ops.DIRECTIONS}
    for row in rows:
        peers = {r.backend: r for r in rows if (r.op, r.direction) == (row.op, row.direction)}
        assert row.median_ms > 0
        assert set(row.ratio) == {"naive", "torch", "pscan"} & (set(peers) - {row.backend})
        for peer, ratio in row.ratio.items():
            assert ratio == pytest.approx(peers[peer].median_ms / row.median_ms)


def test_the_least_bytes_by_hand():
    """A forward scan of 1 x 2 x 3 in float32: u, delta, z read and the output written, B and C, A, D and the bias."""
    assert ops.least_bytes("scan", Shape(1, 2, 3), torch.float32, False) == 4 * (4 * 6 + 2 * 2 * 16 + 3 * 18)
    assert ops.least_bytes("conv", Shape(1, 2, 3), torch.float32, False) == 4 * (2 * 6 + 3 * 5)


def test_paths_and_shapes_that_do_not_fit():
    assert find_path("raster", 12).tolist() == list(range(12))
    assert sorted(find_path("hilbert", 1024).tolist()) == list(range(1024))
    with pytest.raises(UsageError, match="one path over all tokens"):
        find_path("cross-scan", 16)
    for wrong in ("8x8", "0x1x1", "axbxc"):
        with pytest.raises(UsageError, match="not a shape"):
            Shape.parse(wrong)


def test_a_path_that_does_not_fit_is_reported_before_anything_runs():
    told = []
    with pytest.raises(UsageError, match="no scan is called 'rastr'"):
        ops.bench_ops(CPU, shapes=[Shape(1, 4, 8)], paths=["raster", "rastr"], on_progress=told.append)
    with pytest.raises(UsageError, match="one path over all tokens"):
        ops.bench_ops(CPU, shapes=[Shape(1, 4, 8)], paths=["raster", "cross-scan"], on_progress=told.append)
    assert not told


def test_the_command_prints_json_and_leaves_a_record(tmp_path):
    words = [
        "bench",
        "ops",
        "--op",
        "conv",
        "--shape",
        "1x8x8",
        "--path",
        "raster",
        "--seconds",
        "0.01",
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-m", "zigma_bench", *words, "--results", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    keys = {"op", "direction", "shape", "dtype", "backend", "path", "median_ms", "spread_ms", "ratio", "floor"}
    assert all(set(row) == keys for row in rows)
    (record,) = (tmp_path / "kernels").glob("ops-*.json")
    document = json.loads(record.read_text())
    assert document["rows"] == rows
    assert document["versions"]["torch"]
