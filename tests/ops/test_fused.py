"""The backend `fused` without a GPU: its sources compile, and its operators compute shapes and FLOPs."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.backbones.zigma.facts import ZigmaOptions, zigma_cost
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.errors import NotReady
from zigma_bench.ops.causal_conv import launch as conv
from zigma_bench.ops.cuda import program
from zigma_bench.ops.selective_scan import launch as scan
from zigma_bench.plugins.registry import scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.zigzag import zigzag

needs_nvrtc = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("cuda", "nvidia")), reason="no NVRTC: a build without CUDA"
)
SHARED = {"A100": 166_912, "4090": 101_376, "H100": 232_448}  # bytes that a block may have
NUMBERS = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def common(io: torch.dtype, **others: int) -> dict[str, Any]:
    settings = {"IO": io, "BC": io, "VECTOR": 1, "VECTOR_BC": 1, "GATED": 1, "SOFTPLUS": 1, "SEGMENTS": 0}
    return {**settings, **others}


@needs_nvrtc
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize("io", NUMBERS)
def test_sources_compile_for_gpus(io: torch.dtype, capability: tuple[int, int]) -> None:
    for mode in (scan.OUTPUTS, scan.END_STATES, scan.ADJOINTS):
        settings = common(io, MODE=mode, S=4, G=4, CHANNELS=64, BLOCKS=3, SEGMENTS=1)
        assert program.compile_source(scan.FORWARD, capability, settings)[:4] == b"\x7fELF"
    odd = common(io, S=1, GROUPS=1, WARPS=2, BLOCKS=1, OUTPUTS=0, EXACT=0, VECTOR=0, VECTOR_BC=0, GATED=0)
    wide = common(io, S=2, GROUPS=4, WARPS=8, BLOCKS=1, OUTPUTS=1, EXACT=1, SEGMENTS=1)
    for settings in (odd, wide):
        assert program.compile_source(scan.BACKWARD, capability, settings)[:4] == b"\x7fELF"
    settings = {"IO": io, "WIDTH": 4, "RUN": 32, "BATCH": 4, "X": 128, "Y": 1, "VECTOR": 1, "SILU": 1, "SEGMENTS": 1}
    assert program.compile_source(conv.SOURCE, capability, settings)[:4] == b"\x7fELF"


@needs_nvrtc
def test_a_binary_comes_from_the_cache_and_a_broken_source_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "one.cu"
    source.write_text('extern "C" __global__ void one() {}')
    program.compile_source(source, (9, 0), {})
    (kept,) = (program.cache_folder() / "cuda").iterdir()
    kept.write_bytes(b"kept")
    assert program.compile_source(source, (9, 0), {}) == b"kept"
    source.write_text("__global__ void one( {}")
    with pytest.raises(NotReady, match=r"(?s)can't be compiled: .*does not apply here"):
        program.compile_source(source, (9, 0), {})


def fields(source: Path, name: str) -> list[str]:
    """The kinds of a struct's members, in order: Rows, * or int."""
    text = source.read_text()
    body = re.search(rf"struct {name} {{(.*?)\n}};", text, re.DOTALL)
    assert body is not None
    kinds: list[str] = []
    for line in re.sub(r"//.*", "", body[1]).split(";"):
        if line.strip():
            kind, names = re.match(r"\s*(?:const )?(\w+) ?(.*)", line.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
            kinds += ["*" if "*" in part else kind for part in names.split(",")]
    return kinds


@pytest.mark.parametrize(
    ("source", "name", "layout", "counts"),
    [
        (scan.FORWARD, "Scan", scan.SCAN, (7, 9, 6)),
        (scan.BACKWARD, "ScanBackward", scan.SCAN_BACKWARD, (10, 13, 6)),
        (conv.SOURCE, "Conv", conv.CONV, (4, 5, 4)),
    ],
)
def test_structs_are_laid_out_as_the_sources_read_them(
    source: Path, name: str, layout: program.StructLayout, counts: tuple[int, int, int]
) -> None:
    rows, pointers, ints = counts
    assert fields(source, name) == ["Rows"] * rows + ["*"] * pointers + ["int"] * ints
    x = torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16)
    packed = layout.pack([x] * rows, [x] * pointers, range(ints))
    assert len(packed) == layout.struct.size and len(packed) % 8 == 0
    numbers = list((ctypes.c_int64 * (len(packed) // 8)).from_buffer(packed))
    assert (
        numbers[:4] == [x.data_ptr(), 48, 24, 8]
        and numbers[4 * rows : 4 * rows + pointers] == [x.data_ptr()] * pointers
    )


def test_rows_that_may_be_read_in_pieces() -> None:
    x = torch.zeros(1, 2, 8, 64, dtype=torch.bfloat16)
    assert program.is_readable_by(16, x, None, x[..., 32:])
    assert not program.is_readable_by(16, x[..., 3:35])  # the address
    assert not program.is_readable_by(16, x[..., :63])  # the length
    assert not program.is_readable_by(16, torch.zeros(1, 2, 8, 61, dtype=torch.bfloat16)[..., :56])  # the stride


@needs_nvrtc
@pytest.mark.parametrize(("states", "warps"), [(8, 3), (16, 12), (16, 5), (32, 8), (64, 4)])
@pytest.mark.parametrize("io", [torch.bfloat16, torch.float32])
def test_shared_memory_is_what_the_source_says(states: int, warps: int, io: torch.dtype) -> None:
    told = scan.backward_shared_bytes(warps, states, io.itemsize)
    size, groups = 1 if states <= 8 else 2, max(1, scan.pad_states(states) // 16)
    binary = program.compile_source(
        scan.BACKWARD, (9, 0), common(io, S=size, GROUPS=groups, WARPS=warps, BLOCKS=1, OUTPUTS=1, EXACT=0)
    )
    assert struct.pack("<i", told) in binary  # the value of shared_bytes


@pytest.mark.parametrize("card", SHARED)
@pytest.mark.parametrize("states", [1, 8, 16, 32, 64])
@pytest.mark.parametrize("bytes_each", [2, 4])
def test_the_backward_fits_a_gpu_or_is_refused(card: str, states: int, bytes_each: int) -> None:
    if (card, states) == ("4090", 64):
        with pytest.raises(NotReady, match="more shared memory than this GPU has"):
            scan.choose_backward_launch_config(4, 512, 1536, states, 108, bytes_each, SHARED[card])
        return
    plan = scan.choose_backward_launch_config(4, 512, 1536, states, 108, bytes_each, SHARED[card])
    assert scan.backward_shared_bytes(plan.warps, states, bytes_each) <= SHARED[card]
    assert plan.warps % max(1, scan.pad_states(states) // 16) == 0


@pytest.mark.parametrize("length", [1, 63, 64, 65, 500, 16384])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("states", [1, 5, 16, 24, 64])
@pytest.mark.parametrize("channels", [8, 40, 1536])
def test_plans_cover_every_step_once(batch: int, length: int, channels: int, states: int) -> None:
    forward = scan.choose_launch_config(batch, length, channels, states, 132)
    backward = scan.choose_backward_launch_config(batch, length, channels, states, 132, 2, SHARED["H100"])
    for parts in (forward.parts, backward.parts):
        part = scan.part_length(length, parts)
        assert part % scan.SAVE == 0 and (parts - 1) * part < length <= parts * part
    for plan in (forward, backward.first):
        most = scan.pad_states(states)
        assert most % plan.lanes == 0 and most // plan.lanes <= 16 and plan.lanes * plan.channels <= 1024
    assert backward.first.parts == backward.parts and 1 <= backward.warps <= 12
    assert scan.choose_launch_config(64, 256, 1536, 16, 132).parts == 1


def zigma(depth: int) -> Zigma:
    grid, spec = Grid(8, 8), scan_spec("zigzag", zigzag, owner="test")
    orders = layer_routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    options = ZigmaOptions(width=32, depth=depth, patch=1)
    return Zigma(options, grid=grid, channels=3, routes=orders, backend="fused")


def test_a_network_runs_on_imagined_tensors_and_counts_what_the_formula_counts() -> None:
    """Shapes, dtypes, gradients and FLOPs as PyTorch sees the operators when it traces or counts."""
    network = zigma(2)
    imagined = FakeTensorMode()
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    fakes = {name: imagined.from_tensor(tensor) for name, tensor in tensors.items()}
    with imagined, FlopCounterMode(display=False) as counter:
        x, t = torch.empty(2, 3, 8, 8), torch.empty(2)
        y = torch.func.functional_call(network, fakes, (x, t))
        forward = counter.get_total_flops()
        leaves = {name: fakes[name] for name, _ in network.named_parameters()}
        grads = torch.autograd.grad(y.square().mean(), list(leaves.values()))
    assert y.shape == x.shape
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        assert grad.shape == leaf.shape and grad.dtype == leaf.dtype, name
    spec = scan_spec("zigzag", zigzag, owner="test")
    orders = layer_routes(spec, grid=Grid(8, 8), depth=2, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    options = ZigmaOptions(width=32, depth=2, patch=1)
    assert forward == 2 * zigma_cost(options, grid=Grid(8, 8), channels=3, routes=orders).total_flops
    assert counter.get_total_flops() > 2.5 * forward


class Driver:
    """A stand-in for the driver, which records the calls with the current context."""

    def __init__(self, current: int) -> None:
        self.current = current
        self.calls: list[str] = []

    def cuCtxGetCurrent(self) -> tuple[int, int]:
        return 0, self.current

    def cuCtxSetCurrent(self, context: int) -> tuple[int]:
        self.calls.append(f"set {context}")
        return (0,)

    def cuCtxPushCurrent(self, context: int) -> tuple[int]:
        self.calls.append(f"push {context}")
        return (0,)

    def cuCtxPopCurrent(self) -> tuple[int, int]:
        self.calls.append("pop")
        return 0, 7

    def cuLaunchKernel(self, function: str, *arguments: int) -> tuple[int]:
        assert arguments[:6] == (1, 2, 3, 32, 1, 1) and arguments[6] == 100
        self.calls.append(f"launch {function}")
        return (int(function == "broken"),)


@pytest.mark.parametrize(
    ("current", "calls"),
    [(0, ["set 7", "launch f"]), (7, ["launch f"]), (8, ["push 7", "launch f", "pop"])],
)
def test_a_kernel_is_launched_in_its_own_context(
    current: int, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of autograd may have no context yet, and the context of another GPU may be current."""
    driver, arguments = Driver(current), program.StructLayout(0, 1, 0).pack([], [None], [])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=5))
    program.CudaKernel(driver, "f", 7, 0, 100).launch((1, 2, 3), (32, 1, 1), arguments)
    assert driver.calls == calls
    with pytest.raises(NotReady, match="a kernel can't be launched"):
        program.CudaKernel(driver, "broken", 7, 0, 100).launch((1, 2, 3), (32, 1, 1), arguments)
