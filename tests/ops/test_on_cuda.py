"""On an NVIDIA GPU: the operators against the naive loop in float64, the official forward passes, a whole suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.errors import NotReady
from zigma_bench.layers.init import initialise_network
from zigma_bench.layers.speed import Graphed
from zigma_bench.ops.backends import available
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.mamba_inner import mamba_inner
from zigma_bench.ops.norms import residual_norm
from zigma_bench.ops.selective_scan import selective_scan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.zigzag import zigzag

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
TRITON = pytest.param("triton", marks=pytest.mark.skipif(bool(available()["triton"]), reason="triton can't run here"))
KERNELS = ("fused", TRITON)
BACKENDS = ("naive", "torch", *KERNELS)


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
    segment_starts: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    tensors = {name: value.to(device, dtype).requires_grad_() for name, value in given.items()}
    segment_starts = None if segment_starts is None else segment_starts.to(device)
    out = function(**tensors, path=path.to(device), segment_starts=segment_starts, backend=backend)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(device, dtype)
    return [tensor.detach().cpu() for tensor in (out, *torch.autograd.grad(out, list(tensors.values()), grad))]


def agree(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    for index, (mine, right) in enumerate(zip(found, expected, strict=True)):
        error = (mine.double() - right.double()).norm() / right.double().norm().clamp_min(1e-30)
        assert error < bound, (index, float(error))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 63, 64, 500, 512])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("segments", [False, True])
def test_selective_scan(backend: str, length: int, dtype: torch.dtype, bound: float, segments: bool) -> None:
    given, path = scan_inputs(2, length, 40, 16)
    segment_starts = some_segments(length) if segments else None
    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(selective_scan, rounded, path, "cpu", torch.float64, "naive", segment_starts)
    agree(with_gradients(selective_scan, given, path, "cuda", dtype, backend, segment_starts), expected, bound)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 63, 64, 500])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("segments", [False, True])
def test_causal_conv(backend: str, length: int, dtype: torch.dtype, bound: float, segments: bool) -> None:
    rng = torch.Generator().manual_seed(1)
    given = {
        "x": torch.randn(2, length, 40, generator=rng), "weight": torch.randn(40, 4, generator=rng),
        "bias": torch.randn(40, generator=rng),
    }  # fmt: skip
    path, segment_starts = torch.randperm(length, generator=rng), some_segments(length) if segments else None
    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(causal_conv, rounded, path, "cpu", torch.float64, "naive", segment_starts)
    agree(with_gradients(causal_conv, given, path, "cuda", dtype, backend, segment_starts), expected, bound)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("length", [4096, 16384])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)])
@pytest.mark.parametrize("segments", [False, True])
def test_kernels_over_long_paths(backend: str, length: int, dtype: torch.dtype, bound: float, segments: bool) -> None:
    given, path = scan_inputs(1, length, 72, 16)
    segment_starts = some_segments(length) if segments else None
    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(selective_scan, rounded, path, "cuda", torch.float64, "torch", segment_starts)
    agree(with_gradients(selective_scan, given, path, "cuda", dtype, backend, segment_starts), expected, bound)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("states", [1, 2, 7, 8, 12, 24, 32, 64])
@pytest.mark.parametrize("segments", [False, True])
def test_kernels_with_any_number_of_states(backend: str, states: int, segments: bool) -> None:
    given, path = scan_inputs(2, 150, 37, states)
    segment_starts = some_segments(150) if segments else None
    doubles = {name: value.double() for name, value in given.items()}
    expected = with_gradients(selective_scan, doubles, path, "cpu", torch.float64, "naive", segment_starts)
    agree(with_gradients(selective_scan, given, path, "cuda", torch.float32, backend, segment_starts), expected, 3e-5)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias"])
def test_kernels_without_what_may_be_left_out(backend: str, left_out: str) -> None:
    given, path = scan_inputs(2, 100, 40, 16)
    del given[left_out]
    given["delta"] = given["delta"] - 2
    doubles = {name: value.double() for name, value in given.items()}
    expected = with_gradients(selective_scan, doubles, path, "cpu", torch.float64, "naive")
    agree(with_gradients(selective_scan, given, path, "cuda", torch.float32, backend), expected, 3e-5)


@pytest.mark.parametrize("backend", KERNELS)
def test_more_states_than_registers_are_refused(backend: str) -> None:
    given, path = scan_inputs(1, 8, 4, 65)
    with pytest.raises(NotReady, match=r"support so many states.*at most 64; got 65"):
        selective_scan(**{name: value.cuda() for name, value in given.items()}, path=path.cuda(), backend=backend)


@pytest.mark.parametrize("backend", KERNELS)
def test_kernels_read_strided_rows_and_write_all_of_them(backend: str) -> None:
    """Views with rows far apart, channels apart, a batch expanded; empty memory is full of NaN."""
    given, path = scan_inputs(2, 100, 48, 16)
    plain = with_gradients(selective_scan, given, path, "cuda", torch.float32, backend)
    apart = {}
    for name, value in given.items():
        wide = torch.randn(*value.shape[:-1], 3 * value.shape[-1] + 5)
        apart[name] = (wide[..., 2 : 2 + value.shape[-1]], wide[..., ::3][..., : value.shape[-1]])[name in ("z", "B")]
        apart[name].copy_(value)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        moved = with_gradients(lambda **all: selective_scan(**all), apart, path, "cuda", torch.float32, backend)
    finally:
        torch.use_deterministic_algorithms(False)
    agree(moved, plain, 1e-6)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", [(2, 200, 96), (1, 4096, 96), (64, 64, 256)])
def test_kernels_give_equal_bits_again(backend: str, shape: tuple[int, int, int]) -> None:
    given, path = scan_inputs(*shape, 16)
    first, second = (with_gradients(selective_scan, given, path, "cuda", torch.bfloat16, backend) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("segments", [False, True])
def test_no_segment_sees_another_segment(backend: str, segments: bool) -> None:
    given, path = scan_inputs(1, 96, 40, 16)
    given["u"][0, path[20]] = float("inf")
    segment_starts = torch.arange(96) // 32 * 32 if segments else None
    y = selective_scan(
        **{name: value.cuda() for name, value in given.items()}, path=path.cuda(),
        segment_starts=None if segment_starts is None else segment_starts.cuda(), backend=backend,
    )  # fmt: skip
    assert y[0, path[32:].cuda()].isfinite().all() == segments
    assert not y[0, path[20:32].cuda()].isfinite().all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_the_whole_branch_equals_its_parts(dtype: torch.dtype, bound: float, segments: bool, projected: bool) -> None:
    """`projected`: with out_proj, whose gradient is of the outputs that the backward writes again."""
    rng = torch.Generator().manual_seed(0)
    E, N, R, L = 96, 16, 6, 130

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    given = {
        "xz": normal(2, L, 2 * E), "conv_weight": normal(E, 4), "conv_bias": normal(E),
        "x_proj": normal(R + 2 * N, E) / E**0.5, "dt_proj": normal(E, R) / R**0.5, "dt_bias": normal(E) - 3,
        "A": -torch.rand(E, N, generator=rng) * N - 0.1, "D": normal(E),
    }  # fmt: skip
    if projected:
        given["out_proj"] = normal(40, E) / E**0.5
    path, segment_starts = torch.randperm(L, generator=rng), some_segments(L) if segments else None

    def parts(
        *, path: torch.Tensor, segment_starts: torch.Tensor | None, backend: str, **all: torch.Tensor
    ) -> torch.Tensor:
        along: dict[str, Any] = {"path": path, "segment_starts": segment_starts, "backend": backend}
        x, z = all["xz"].chunk(2, -1)
        u = causal_conv(x, all["conv_weight"], all["conv_bias"], **along)
        dt, B, C = (u @ all["x_proj"].t()).split([R, N, N], -1)
        y = selective_scan(
            u, dt @ all["dt_proj"].t(), all["A"], B, C, D=all["D"], z=z, delta_bias=all["dt_bias"], **along
        )
        return y @ all["out_proj"].t() if projected else y

    def whole(
        *, path: torch.Tensor, segment_starts: torch.Tensor | None, backend: str, **all: torch.Tensor
    ) -> torch.Tensor:
        xz, out_proj = all.pop("xz"), all.pop("out_proj", None)
        own = {name: tensor[None] for name, tensor in all.items()}
        segment_starts = None if segment_starts is None else segment_starts[None]
        y = mamba_inner(xz, **own, path=path[None], segment_starts=segment_starts, out_proj=out_proj, backend="fused")
        return y if projected else y[0]

    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(parts, rounded, path, "cpu", torch.float64, "naive", segment_starts)
    agree(with_gradients(whole, given, path, "cuda", dtype, "fused", segment_starts), expected, bound)


@pytest.mark.skipif(bool(available()["triton"]), reason="triton can't run here")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # first in a thread of autograd's
@pytest.mark.parametrize(("batch", "length", "width"), [(3, 65, 48), (16, 1024, 768), (1, 4096, 1000), (2, 33, 2048)])
def test_the_residual_norm(batch: int, length: int, width: int, dtype: torch.dtype, bound: float) -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = {"r": (batch, length, width), "y": (batch, length, width), "three": (batch, 3 * width)}
    shapes |= {"before": (width,), "weight": (width,), "projection": (96, width)}
    values = {name: torch.randn(*shape, generator=rng) for name, shape in shapes.items()}
    values["projection"] /= width**0.5
    values["y"] = values["y"].to(dtype).float()
    grads = [torch.randn(batch, length, size, generator=rng) for size in (width, 96)]
    kept = torch.arange(batch).float() % 2 * 1.25

    def run(backend: str, wide: torch.dtype, made: torch.dtype) -> list[torch.Tensor]:
        leaves = {name: value.cuda().to(wide).requires_grad_() for name, value in values.items()}
        shift, scale, gate = leaves["three"].chunk(3, -1)
        out = residual_norm(
            leaves["r"], leaves["y"].to(made), gate, leaves["before"], kept.cuda().to(wide), leaves["weight"], shift,
            scale, leaves["projection"], eps=1e-5, dtype=made, backend=backend,
        )  # fmt: skip
        given = [grad.cuda().to(x.dtype) for grad, x in zip(grads, out, strict=True)]
        return [x.detach().double().cpu() for x in (*out, *torch.autograd.grad(out, list(leaves.values()), given))]

    found = run("triton", torch.float32, dtype)
    agree(found, run("torch", torch.float64, torch.float64), bound)
    assert all(torch.equal(one, two) for one, two in zip(found, run("triton", torch.float32, dtype), strict=True))


def test_pytorch_finds_the_operators_well_registered() -> None:
    given, path = scan_inputs(2, 70, 40, 16)
    u, delta, A, B, C, D, z, bias = (given[name][None].cuda().requires_grad_() for name in given)
    ops = torch.ops.zigma_bench
    torch.library.opcheck(
        ops.selective_scan, (u, delta, A, B, C, D, z, bias, True, path[None].cuda(), None, None, True)
    )
    weight = torch.randn(1, 40, 4, device="cuda", requires_grad=True)
    torch.library.opcheck(ops.causal_conv, (u, weight, bias, path[None].cuda(), None, True))


@pytest.mark.filterwarnings("ignore")  # inductor's own
@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("convolution", ["path", "grid", "none"])
def test_a_network_compiles_whole_and_equals_itself(backend: str, convolution: str) -> None:
    grid, spec = Grid(8, 8), scan_spec("zigzag", zigzag, owner="test")
    orders = layer_routes(spec, grid=grid, depth=2, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    mixer = {"name": "mamba", "options": {"convolution": convolution}}
    options = ZigmaOptions(width=64, depth=2, patch=1, drop_path=0, mixer=mixer)
    network = Zigma(options, grid=grid, channels=3, routes=orders, backend=backend).cuda()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, t = torch.randn(2, 3, 8, 8, device="cuda"), torch.rand(2, device="cuda")
    compiled = torch.compile(network, fullgraph=True)
    for run in (network, compiled):
        network.zero_grad()
        run(x, t).square().mean().backward()
        found = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        if run is network:
            expected = found
    agree([grad.cpu() for grad in found], [grad.cpu() for grad in expected], 1e-4)


def allocated(function: Any) -> int:
    """The bytes that the second call of a function allocates, even if it frees them."""
    function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["requested_bytes.all.allocated"]
    function()
    torch.cuda.synchronize()
    return int(torch.cuda.memory_stats()["requested_bytes.all.allocated"]) - before


def test_a_branch_allocates_what_it_computes_and_no_copy() -> None:
    """u, the projections, delta and y: no row is moved for the path, nothing is transposed."""
    B, L, E, N, R = 64, 128, 1536, 16, 48  # enough channels for a GPU to process the path in one part
    path = torch.randperm(L, device="cuda")
    xz = torch.randn(B, L, 2 * E, device="cuda", dtype=torch.bfloat16)
    shapes = [(1, E, 4), (1, E), (1, R + 2 * N, E), (1, E, R), (1, E)]
    parameters = [torch.randn(shape, device="cuda") for shape in shapes]
    A, D = -torch.rand(1, E, N, device="cuda"), torch.ones(1, E, device="cuda")
    weights = 2 * (R + 2 * N + R) * E  # in bfloat16
    with torch.no_grad():
        found = allocated(
            lambda: mamba_inner(xz, *parameters, A, D, path=path[None], segment_starts=None, backend="fused")
        )
    rows = 2 * B * L * (3 * E + R + 2 * N)
    assert rows + weights <= found <= 1.02 * (rows + weights)


@pytest.mark.parametrize("name", ["bidirectional", "cross-scan"])
def test_layers_of_several_paths_equal_the_operators_one_by_one(name: str) -> None:
    """One launch for all paths, with own or shared parameters, against the backend torch."""
    grid, spec = Grid(6, 8), catalogue().get("scan", name)
    orders = layer_routes(spec, grid=grid, depth=2, seed=0, options=spec.resolve({}, where="test"))
    assert all(route.K > 1 for route in orders)
    found = []
    for backend in ("torch", "fused"):
        options = ZigmaOptions(width=64, depth=2, patch=1, drop_path=0)
        network = Zigma(options, grid=grid, channels=3, routes=orders, backend=backend)
        initialise_network(network, 0)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
        network.cuda()
        x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(1)).cuda()
        y = network(x, torch.tensor([0.2, 0.7], device="cuda"))
        grads = torch.autograd.grad(y.square().mean(), list(network.parameters()))
        found.append([tensor.detach().cpu() for tensor in (y, *grads)])
    agree(found[1], found[0], 1e-4)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_block_allocates_as_much_along_any_path(backend: str) -> None:
    def block(name: str) -> int:
        grid, spec = Grid(32, 32), catalogue().get("scan", name)
        orders = layer_routes(spec, grid=grid, depth=1, seed=0, options=spec.resolve({}, where="test"))
        network = Zigma(
            ZigmaOptions(width=64, depth=1, patch=1), grid=grid, channels=4, routes=orders, backend=backend
        ).cuda()
        x, c = torch.randn(2, 1024, 64, device="cuda"), torch.randn(2, 64, device="cuda")
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            return allocated(lambda: network.blocks[0](x, None, None, None, c))

    assert block("raster") == block("zigzag") == block("random")


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("convolution", ["path", "grid", "none"])
def test_a_graph_of_launches_gives_what_the_launches_give(backend: str, convolution: str) -> None:
    grid, spec = Grid(8, 8), scan_spec("zigzag", zigzag, owner="test")
    orders = layer_routes(spec, grid=grid, depth=2, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    mixer = {"name": "mamba", "options": {"convolution": convolution}}
    options = ZigmaOptions(width=64, depth=2, patch=1, mixer=mixer)
    network = Zigma(options, grid=grid, channels=3, routes=orders, backend=backend)
    for parameter in network.cuda().parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    graphed = Graphed(network.requires_grad_(False).eval(), "cuda")
    for batch in (2, 3, 2):
        x, t = torch.randn(batch, 3, 8, 8, device="cuda"), torch.rand(batch, device="cuda")
        first, expected = graphed(x, t), network(x, t)
        second = graphed(2 * x, t)
        assert torch.equal(first, expected) and torch.equal(second, network(2 * x, t))
    assert len(graphed.graphs) == 2


def test_launches_that_wait_are_no_graph() -> None:
    with pytest.raises(NotReady, match=r"can't be captured as a CUDA graph.*omit sample.graph"):
        Graphed(lambda x: x * float(x.sum()), "cuda")(torch.ones(3, device="cuda"))


@pytest.mark.skipif(bool(available()["mamba-ssm"]), reason="mamba-ssm is not installed")
@pytest.mark.parametrize("length", [63, 64, 500])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)])
def test_mamba_ssm(length: int, dtype: torch.dtype, bound: float) -> None:
    given, path = scan_inputs(2, length, 40, 16)
    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(selective_scan, rounded, path, "cpu", torch.float64, "naive")
    agree(with_gradients(selective_scan, given, path, "cuda", dtype, "mamba-ssm"), expected, bound)
    with pytest.raises(NotReady, match="don't support segments"):
        with_gradients(selective_scan, given, path, "cuda", dtype, "mamba-ssm", some_segments(length))


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_official_network(backend: str) -> None:
    from golden import CASES, golden_condition, golden_input, golden_output, official_weights

    from zigma_bench.backbones.official import load_official

    for case, golden in CASES.items():
        weights = official_weights(golden["param_order"])
        network = load_official("zigma", weights, golden["config"], backend=backend, device="cuda")
        given = (golden_input(golden["input_shape"]), torch.tensor(golden["t"]), golden_condition(golden))
        with torch.no_grad():
            found = network(*(None if value is None else value.cuda() for value in given))
        np.testing.assert_allclose(found.cpu().numpy(), golden_output(golden), atol=1e-4, rtol=0, err_msg=case)


def test_a_suite_runs_and_resumes(write_suite: Any, tmp_path: Path) -> None:
    path = write_suite(("seeds: [0, 1]", "seeds: [0]"), ("sample: {", "sample: {compile: true, "))
    command = [sys.executable, "-m", "zigma_bench", "run", str(path), "--results", str(tmp_path / "r"), "--json"]
    first = subprocess.run([*command, "--device", "cuda"], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    again = subprocess.run([*command, "--device", "cuda"], capture_output=True, text=True, check=False)
    assert again.stdout == first.stdout
    on_cpu = [*command[:-2], str(tmp_path / "cpu"), "--json", "--device", "cpu", "--set", "sample.compile=false"]
    whole = subprocess.run(on_cpu, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    for mine, other in zip(json.loads(first.stdout)["rows"], json.loads(whole.stdout)["rows"], strict=True):
        if mine["role"] == "cell":
            assert mine["metrics"]["val-loss"]["mean"] == pytest.approx(other["metrics"]["val-loss"]["mean"], rel=0.05)
