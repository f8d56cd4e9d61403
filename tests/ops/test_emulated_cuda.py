"""The kernels in CUDA C++ on an emulated GPU: against the naive loop in float64, and what the emulation finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import emulated
import pytest
import torch
from torch import Tensor

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.ops import mamba_inner
from zigma_bench.ops.backend import Backend
from zigma_bench.ops.causal_conv import CausalConvArguments, causal_conv
from zigma_bench.ops.causal_conv import launch as conv
from zigma_bench.ops.compiler import find_compiler
from zigma_bench.ops.cuda.program import StructLayout
from zigma_bench.ops.selective_scan import SelectiveScanArguments, fused, launch, selective_scan
from zigma_bench.ops.selective_scan.launch import ScanBackwardLaunchConfig, ScanLaunchConfig
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
BF16, FP32 = torch.bfloat16, torch.float32
BOUNDS = {BF16: 1e-2, FP32: 3e-5}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with 132 processors. Empty memory is NaN, and paths and states are the same in every run."""
    torch.manual_seed(0)
    for module in (launch, conv):
        monkeypatch.setattr(module, "load_kernel", emulated.load_kernel)
    for cached in (launch._scan_kernel, launch._backward_kernel, conv._conv_kernel):
        cached.cache_clear()
    monkeypatch.setattr(launch, "_processors", lambda index: 132)
    monkeypatch.setattr(launch, "get_shared_bytes_limit", lambda index: 232_448)
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *shape, **how: empty(*shape, **how).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **how: empty_like(tensor, **how).fill_(torch.nan))


def some_segments(length: int) -> Tensor:
    starts = torch.rand(length, generator=torch.Generator().manual_seed(3)) < 0.1
    starts[[step for step in (0, 15, 16, 17, 64, 65) if step < length]] = True
    return (starts * torch.arange(length)).cummax(0).values


def scan_inputs(batch: int, length: int, channels: int, states: int, dtype: torch.dtype) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(states)

    def rows(width: int) -> Tensor:
        return torch.randn(batch, length, width, generator=rng).to(dtype)

    def one(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    return {
        "u": rows(channels), "delta": rows(channels), "A": -one(channels, states).abs() * states - 0.1,
        "B": rows(states), "C": rows(states), "D": one(channels), "z": rows(channels), "delta_bias": one(channels) - 3,
    }  # fmt: skip


def inputs_of(
    given: dict[str, Tensor], path: Tensor, segment_starts: Tensor | None, initial: Tensor | None = None
) -> SelectiveScanArguments:
    u, delta, A, B, C, D, z, bias = (given[name][None] if name in given else None for name in NAMES)
    assert u is not None and delta is not None and A is not None and B is not None and C is not None
    assert D is not None and bias is not None
    orders = (path[None], None if segment_starts is None else segment_starts[None])
    return SelectiveScanArguments(
        u, delta, A, B, C, D, z, bias, True, *orders, None if initial is None else initial[None]
    )


def expected_of(
    given: dict[str, Tensor], grad: Tensor, path: Tensor, segment_starts: Tensor | None, initial: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: tensor.double().requires_grad_() for name, tensor in given.items()}
    if initial is not None:
        leaves["initial"] = initial.double().requires_grad_()
    y = selective_scan(**leaves, path=path, segment_starts=segment_starts, delta_softplus=True, backend="naive")
    return y.detach(), dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), grad.double()), strict=True))


def agree(mine: Tensor | None, right: Tensor, bound: float, what: str = "") -> None:
    assert mine is not None
    error = (mine.double() - right).norm() / right.norm().clamp_min(1e-30)
    assert error < bound, (what, float(error))


def both_ways(run: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The results of a run, which must be exactly the same whichever warp goes first."""
    found = [tensor for tensor in run() if tensor is not None]
    monkeypatch.setattr(emulated.Emulated, "backwards", True)
    for one, other in zip(found, (tensor for tensor in run() if tensor is not None), strict=True):
        assert torch.equal(one, other)
    monkeypatch.setattr(emulated.Emulated, "backwards", False)
    return found


@pytest.mark.parametrize(
    ("config", "states", "channels", "dtype", "segments"),
    [
        (ScanLaunchConfig(1, 128, 5, 1), 16, 24, BF16, False), (ScanLaunchConfig(2, 64, 4, 1), 16, 37, FP32, True),
        (ScanLaunchConfig(4, 64, 3, 2), 12, 24, BF16, True), (ScanLaunchConfig(8, 32, 2, 3), 16, 24, FP32, False),
        (ScanLaunchConfig(4, 64, 3, 1), 40, 7, FP32, False), (ScanLaunchConfig(1, 128, 5, 2), 1, 24, BF16, True),
    ],
)  # fmt: skip
def test_the_scan(
    config: ScanLaunchConfig,
    states: int,
    channels: int,
    dtype: torch.dtype,
    segments: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    length = 150
    given, path = scan_inputs(2, length, channels, states, dtype), torch.randperm(length)
    segment_starts, initial = some_segments(length) if segments else None, torch.randn(2, channels, states)
    expected, _ = expected_of(given, given["u"], path, segment_starts, initial)
    inputs = inputs_of(given, path, segment_starts, initial)
    out, saved = both_ways(lambda: launch.run_forward_kernels(inputs, save=True, config=config), monkeypatch)
    agree(out[0], expected, BOUNDS[dtype])
    assert torch.equal(saved[0, :, 0], initial) and saved.isfinite().all()


@pytest.mark.parametrize(
    ("states", "channels", "parts", "dtype", "segments", "gated"),
    [
        (16, 24, 1, FP32, False, True), (16, 37, 2, BF16, True, True), (7, 16, 3, FP32, True, False),
        (40, 16, 1, BF16, False, True),
    ],
)  # fmt: skip
def test_its_gradients(
    states: int, channels: int, parts: int, dtype: torch.dtype, segments: bool, gated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The output, too, is written again; with a gate over its own gradient."""
    length = 150
    given, path = scan_inputs(1, length, channels, states, dtype), torch.randperm(length)
    if not gated:
        del given["z"]
    segment_starts, initial = some_segments(length) if segments else None, torch.randn(1, channels, states)
    grad = torch.randn(1, length, channels, generator=torch.Generator().manual_seed(9)).to(dtype)
    y, expected = expected_of(given, grad, path, segment_starts, initial)
    inputs = inputs_of(given, path, segment_starts, initial)
    _, saved = launch.run_forward_kernels(inputs, save=True)
    usual = launch.choose_backward_launch_config(1, length, channels, states, 132, 4, 232_448)
    first = ScanLaunchConfig(4, 64, 3, launch.whole_parts(length, parts))
    config = ScanBackwardLaunchConfig(usual.warps, usual.blocks, first.parts, first)

    def run() -> tuple[Tensor | None, ...]:
        of_y = grad[None].clone()
        again = of_y if gated else torch.full_like(of_y, torch.nan)
        found = launch.run_backward_kernels(inputs, of_y, saved, y=again, config=config)
        return found.u, found.delta, found.A, found.BC, found.D, found.bias, found.initial, again, found.z

    of_u, of_delta, of_A, of_BC, of_D, of_bias, of_initial, again, *of_z = both_ways(run, monkeypatch)
    mine = {
        "u": of_u, "delta": of_delta, "A": of_A, "B": of_BC[..., 0, :], "C": of_BC[..., 1, :], "D": of_D,
        "delta_bias": of_bias, "initial": of_initial,
    }  # fmt: skip
    mine |= {"z": of_z[0]} if gated else {}
    assert mine.keys() == expected.keys()
    for name, right in expected.items():
        agree(mine[name][0], right, BOUNDS[dtype], name)
    agree(again[0], y, BOUNDS[dtype], "y")


@pytest.mark.parametrize(("channels", "dtype", "segments"), [(24, BF16, False), (24, FP32, True), (37, BF16, True)])
def test_the_convolution(channels: int, dtype: torch.dtype, segments: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    length, rng = 70, torch.Generator().manual_seed(1)
    x, weight, bias = (
        torch.randn(shape, generator=rng) for shape in ((2, length, channels), (channels, 4), (channels,))
    )
    x, path, segment_starts = x.to(dtype), torch.randperm(length), some_segments(length) if segments else None
    grad = torch.randn(2, length, channels, generator=rng).to(dtype)
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    y = causal_conv(*leaves, path=path, segment_starts=segment_starts, activation="silu", backend="naive")
    expected = torch.autograd.grad(y, leaves, grad.double())
    starts = None if segment_starts is None else segment_starts[None]
    given = CausalConvArguments(x[None], weight[None], bias[None], path[None], starts, True)

    def run() -> tuple[Tensor, ...]:
        return conv.run_conv_kernel(given), *conv.run_conv_backward_kernel(given, grad[None])

    for mine, right in zip(both_ways(run, monkeypatch), (y.detach(), *expected), strict=True):
        agree(mine[0], right, BOUNDS[dtype])


@pytest.mark.parametrize(
    ("scan", "frames", "convolution"),
    [("zigzag-video", 2, "path"), ("bidirectional", 1, "path"), ("cross-scan", 1, "path"), ("zigzag", 1, "grid"),
     ("bidirectional", 1, "none")],
)  # fmt: skip
def test_a_network_equals_the_naive_one(scan: str, frames: int, convolution: str) -> None:
    """With what Mamba's inner operator puts where: one path and several, own and shared parameters, segments; and with
    the scan as an operator of its own, after a convolution on the grid or none."""
    grid, spec = Grid(5, 8, frames), catalogue().get("scan", scan)
    orders = layer_routes(spec, grid=grid, depth=3, seed=0, options=spec.resolve({}, where="test"))
    mixer = {"name": "mamba", "options": {"convolution": convolution}}
    options = ZigmaOptions(width=16, depth=3, patch=1, drop_path=0.0, mixer=mixer)
    x = torch.randn(2, *((frames,) if frames > 1 else ()), 3, 5, 8, generator=torch.Generator().manual_seed(1))
    found = []
    with torch.library._scoped_library("zigma_bench", "FRAGMENT") as on_cpu:
        on_cpu.impl("mamba_inner", mamba_inner._run, "CPU")
        on_cpu.impl("mamba_inner_backward", mamba_inner._run_backward, "CPU")
        on_cpu.impl("selective_scan", fused._run, "CPU")
        on_cpu.impl("selective_scan_backward", fused._run_backward, "CPU")
        on_a_gpu = mock.patch.object(Backend, "check_device")
        for backend in ("naive", "fused"):
            network = Zigma(options, grid=grid, channels=3, routes=orders, backend=backend)
            for number, parameter in enumerate(network.parameters()):
                torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(number))
            with on_a_gpu:
                y = network(x, torch.tensor([0.2, 0.7]))
            found.append([y.detach(), *torch.autograd.grad(y.square().mean(), list(network.parameters()))])
    for number, (mine, right) in enumerate(zip(found[1], found[0], strict=True)):
        agree(mine, right.double(), 2e-5, str(number))


def run_source(source: str, folder: Path, threads: int) -> Tensor:
    """A kernel `one` on 64 numbers, each 1 before."""
    file = folder / "one.cu"
    begin = "extern __shared__ char memory[]; float* shared = (float*)memory;"
    file.write_text(
        'struct One { float* x; };\nextern "C" __device__ const int shared_bytes = 256;\n'
        f'extern "C" __global__ void one(const One p) {{ {begin} {source} }}'
    )
    x = torch.ones(64)
    emulated.load_kernel(file, "one", -1).launch((1, 1, 1), (threads, 1, 1), StructLayout(0, 1, 0).pack((), (x,), ()))
    return x


def test_the_emulation_finds_what_a_gpu_would_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = "shared[threadIdx.x] = threadIdx.x; %s p.x[threadIdx.x] = shared[63 - threadIdx.x];"
    right = torch.arange(63, -1, -1).float()
    for backwards in (False, True):
        monkeypatch.setattr(emulated.Emulated, "backwards", backwards)
        assert torch.equal(run_source(turned % "__syncthreads();", tmp_path, 64), right)
        found = run_source(turned % "", tmp_path, 64)  # each order shows NaN where the other is right
        assert torch.equal(found.isnan(), torch.arange(64) < 32 if not backwards else torch.arange(64) >= 32)
    copied = "copy16(shared + 4 * threadIdx.x, p.x + 4 * threadIdx.x); commit(); %s __syncthreads(); "
    copied += "p.x[threadIdx.x] = shared[threadIdx.x] + 1;"
    assert torch.equal(run_source(copied % "wait<0>();", tmp_path, 16)[:16], torch.full((16,), 2.0))
    assert run_source(copied % "", tmp_path, 16)[:16].isnan().all()
    with pytest.raises(RuntimeError, match="deadlock"):
        run_source("if (threadIdx.x) __syncthreads(); else while (p.x[1] == 1) __syncwarp();", tmp_path, 64)
