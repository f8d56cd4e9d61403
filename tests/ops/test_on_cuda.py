"""On an NVIDIA card: the operators against the naive loop in float64, the official forward passes, a whole suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zigma_bench.grid import Grid
from zigma_bench.models.options import ZigmaOptions
from zigma_bench.models.zigma import Zigma
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.selective_scan import selective_scan
from zigma_bench.registry import scan_spec
from zigma_bench.scans.layers import routes
from zigma_bench.scans.zigzag import zigzag

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA card")
BACKENDS = ("naive", "torch")


def scan_inputs(batch: int, length: int, channels: int, states: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    given = {
        "u": normal(batch, length, channels), "delta": normal(batch, length, channels),
        "A": -torch.rand(channels, states, generator=rng) * states - 0.1,
        "B": normal(batch, length, states), "C": normal(batch, length, states), "D": normal(channels),
        "z": normal(batch, length, channels), "delta_bias": normal(channels) - 3,
    }  # fmt: skip
    return given, torch.randperm(length, generator=rng)


def some_segments(length: int) -> torch.Tensor:
    """The step at which each step's segment began: starts at, before and after a multiple of 16, and at random."""
    starts = torch.rand(length, generator=torch.Generator().manual_seed(3)) < 0.1
    starts[[step for step in (0, 15, 16, 17, 48) if step < length]] = True
    return (starts * torch.arange(length)).cummax(0).values


def with_gradients(
    function: Any,
    given: dict[str, torch.Tensor],
    path: torch.Tensor,
    device: str,
    dtype: torch.dtype,
    backend: str,
    since: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    tensors = {name: value.to(device, dtype).requires_grad_() for name, value in given.items()}
    since = None if since is None else since.to(device)
    out = function(**tensors, path=path.to(device), since=since, backend=backend)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(device, dtype)
    return [tensor.detach().cpu() for tensor in (out, *torch.autograd.grad(out, list(tensors.values()), grad))]


def agree(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    for index, (mine, right) in enumerate(zip(found, expected, strict=True)):
        error = (mine.double() - right.double()).norm() / right.double().norm().clamp_min(1e-30)
        assert error < bound, (index, float(error))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 17, 64, 500])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("segments", [False, True])
def test_selective_scan(backend: str, length: int, dtype: torch.dtype, bound: float, segments: bool) -> None:
    given, path = scan_inputs(2, length, 40, 16)
    since = some_segments(length) if segments else None
    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(selective_scan, rounded, path, "cpu", torch.float64, "naive", since)
    agree(with_gradients(selective_scan, given, path, "cuda", dtype, backend, since), expected, bound)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 17, 500])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("segments", [False, True])
def test_causal_conv(backend: str, length: int, dtype: torch.dtype, bound: float, segments: bool) -> None:
    rng = torch.Generator().manual_seed(1)
    given = {
        "x": torch.randn(2, length, 40, generator=rng), "weight": torch.randn(40, 4, generator=rng),
        "bias": torch.randn(40, generator=rng),
    }  # fmt: skip
    path, since = torch.randperm(length, generator=rng), some_segments(length) if segments else None
    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(causal_conv, rounded, path, "cpu", torch.float64, "naive", since)
    agree(with_gradients(causal_conv, given, path, "cuda", dtype, backend, since), expected, bound)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_official_network(backend: str) -> None:
    from golden import golden_input, official_weights

    path = Path(__file__).parents[1] / "models" / "golden" / "zigma_forward.json"
    golden = json.loads(path.read_text())["cases"]["zigzagN8_uncond_d3"]
    grid, spec = Grid(4, 4), scan_spec("zigzag", zigzag, owner="test")
    orders = routes(spec, grid=grid, depth=3, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    options = ZigmaOptions(width=16, depth=3, patch=1, residual="official")
    network = Zigma(options, grid=grid, channels=2, routes=orders, backend=backend)
    network.load_state_dict(official_weights(golden["param_order"]), strict=True)
    with torch.no_grad():
        found = network.cuda().eval()(golden_input(golden["input_shape"]).cuda(), torch.tensor(golden["t"]).cuda())
    expected = np.array(golden["output"]).reshape(golden["output_shape"])
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-4, rtol=0)


def test_a_suite_runs_and_goes_on(write_suite: Any, tmp_path: Path) -> None:
    path = write_suite(("seeds: [0, 1]", "seeds: [0]"))
    command = [sys.executable, "-m", "zigma_bench", "run", str(path), "--results", str(tmp_path / "r"), "--json"]
    first = subprocess.run([*command, "--device", "cuda"], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    again = subprocess.run([*command, "--device", "cuda"], capture_output=True, text=True, check=False)
    assert again.stdout == first.stdout
    on_cpu = [*command[:-2], str(tmp_path / "cpu"), "--json", "--device", "cpu"]
    whole = subprocess.run(on_cpu, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    for mine, other in zip(json.loads(first.stdout)["rows"], json.loads(whole.stdout)["rows"], strict=True):
        if mine["role"] == "cell":
            assert mine["metrics"]["val-loss"]["mean"] == pytest.approx(other["metrics"]["val-loss"]["mean"], rel=0.05)
