"""Every backend of the selective scan against the naive loop in float64: outputs, gradients, paths, odd sizes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest
import torch

from zigma_bench.errors import UnknownName, UsageError
from zigma_bench.ops.compiler import find_compiler
from zigma_bench.ops.selective_scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
FAST = ("torch", pytest.param("cpu", marks=needs_compiler))


def inputs(
    batch: int, length: int, channels: int, states: int, *, drop: tuple[str, ...] = (), seed: int = 0
) -> dict[str, Any]:
    """Random float32 inputs of the size that a network gives at its start; `drop` names those left out."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    given: dict[str, Any] = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels),
        "A": -torch.rand(channels, states, generator=rng) * states - 0.1,
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels) - 3,
    }
    path = torch.randperm(length, generator=rng)
    return {**{name: value for name, value in given.items() if name not in drop}, "path": path}


# Lengths of segments: 63 steps in all, with starts at, before and after multiples of 16 (the blocks of both backends).
SEGMENTS = {
    "one": [63],
    "single": [1] * 63,
    "at": [16, 16, 16, 15],
    "before": [15, 16, 16, 16],
    "after": [17, 16, 16, 14],
    "uneven": [1, 1, 13, 1, 16, 2, 28, 1],
}


def since_of(lengths: list[int]) -> torch.Tensor:
    """The step at which each step's segment began."""
    return torch.tensor([sum(lengths[:i]) for i, length in enumerate(lengths) for _ in range(length)])


def run(given: dict[str, Any], backend: str, dtype: torch.dtype, **options: Any) -> list[torch.Tensor]:
    """The output and the gradient of every tensor, under one fixed gradient of the output."""
    tensors = {k: v.to(dtype).detach().requires_grad_() for k, v in given.items() if k in NAMES}
    out = selective_scan(**tensors, path=given["path"], backend=backend, **options)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, list(tensors.values()), grad)]


def agree(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    """Every tensor within `bound` of the expected one, relative to its norm."""
    for index, (mine, right) in enumerate(zip(found, expected, strict=True)):
        assert mine.shape == right.shape
        error = (mine.double() - right.double()).norm() / right.double().norm().clamp_min(1e-30)
        assert error < bound, (index, float(error))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 500])
def test_lengths(backend: str, length: int) -> None:
    given = inputs(2, length, 24, 16)
    agree(run(given, backend, torch.float32), run(given, "naive", torch.float64), 2e-5)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 33, 130])
@pytest.mark.parametrize("states", [1, 5, 16, 20])
def test_odd_channels_and_states(backend: str, channels: int, states: int) -> None:
    given = inputs(3, 21, channels, states)
    agree(run(given, backend, torch.float32), run(given, "naive", torch.float64), 2e-5)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("batch", [1, 40])
def test_many_groups_of_channels(backend: str, batch: int) -> None:
    given = inputs(batch, 18, 16 * 17 + 3, 5)
    agree(run(given, backend, torch.float32), run(given, "naive", torch.float64), 2e-5)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("drop", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")])
def test_optional_inputs(backend: str, drop: tuple[str, ...]) -> None:
    given = inputs(2, 33, 20, 16, drop=drop)
    agree(run(given, backend, torch.float32), run(given, "naive", torch.float64), 2e-5)


@pytest.mark.parametrize("backend", FAST)
def test_without_softplus(backend: str) -> None:
    given = inputs(2, 33, 20, 16)
    given["delta"] = given["delta"].abs() * 0.1
    given["delta_bias"] = given["delta_bias"].abs() * 0.01
    expected = run(given, "naive", torch.float64, delta_softplus=False)
    agree(run(given, backend, torch.float32, delta_softplus=False), expected, 2e-5)


@pytest.mark.parametrize("backend", FAST)
def test_states_may_grow(backend: str) -> None:
    """Without softplus a step may be negative, and its decay above 1."""
    given = inputs(2, 33, 20, 16)
    given["delta"] = given["delta"] * 0.02
    given["delta_bias"] = given["delta_bias"] * 0.01
    expected = run(given, "naive", torch.float64, delta_softplus=False)
    agree(run(given, backend, torch.float32, delta_softplus=False), expected, 2e-5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch has another OpenMP runtime")
def test_the_threads_of_torch_are_found() -> None:
    """simd.h asks for them by this name; threads of our own would take turns with them."""
    assert hasattr(ctypes.CDLL(None), "GOMP_parallel")


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_a_path_is_a_permutation_before_and_its_inverse_after(backend: str) -> None:
    given = inputs(2, 37, 20, 16)
    path = given.pop("path")
    moved = {k: v[:, path] if v.dim() == 3 else v for k, v in given.items()}
    in_order = selective_scan(**moved, backend=backend)
    assert not torch.equal(path[path], torch.arange(37))  # a path and its inverse must not be mistaken
    torch.testing.assert_close(selective_scan(**given, path=path, backend=backend)[:, path], in_order)


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_views_give_what_copies_give(backend: str) -> None:
    given = inputs(2, 19, 24, 5)
    xz, bc = torch.cat((given["u"], given["z"]), -1), torch.cat((given["B"], given["C"]), -1)
    views = dict(zip("uz", xz.chunk(2, -1), strict=True)) | dict(zip("BC", bc.chunk(2, -1), strict=True))
    delta = given["delta"].transpose(1, 2).contiguous().transpose(1, 2)  # channels far apart
    expected = selective_scan(**given, backend=backend)
    torch.testing.assert_close(selective_scan(**{**given, **views, "delta": delta}, backend=backend), expected)


@pytest.mark.parametrize("backend", FAST)
def test_views_give_the_same_gradients(backend: str) -> None:
    given = inputs(2, 19, 24, 16)
    expected = run(given, backend, torch.float32)
    xz = torch.cat((given["u"], given["z"]), -1).requires_grad_()
    u, z = xz.chunk(2, -1)
    grad = torch.randn(u.shape, generator=torch.Generator().manual_seed(9))
    scattered = grad.transpose(1, 2).contiguous().transpose(1, 2)
    out = selective_scan(**{**given, "u": u, "z": z}, backend=backend)
    (found,) = torch.autograd.grad(out, xz, scattered)
    agree([found], [torch.cat((expected[1], expected[7]), -1)], 1e-6)


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("extreme", [-50.0, 50.0])
def test_extreme_step_sizes_stay_finite(backend: str, extreme: float) -> None:
    given = inputs(2, 40, 17, 16)
    given["delta"] = torch.full_like(given["delta"], extreme)
    found = run(given, backend, torch.float32)
    assert all(tensor.isfinite().all() for tensor in found)
    agree(found[:1], run(given, "naive", torch.float64)[:1], 2e-5)


@pytest.mark.parametrize("backend", FAST)
def test_a_nan_is_not_hidden(backend: str) -> None:
    given = inputs(1, 20, 16, 16)
    given["u"][0, int(given["path"][3]), 5] = float("nan")
    out = selective_scan(**given, backend=backend)[:, given["path"]]
    assert out[0, 3:, 5].isnan().all()
    assert out[0, :3].isfinite().all() and out[0, :, 6].isfinite().all()


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_float32(backend: str, dtype: torch.dtype) -> None:
    given = inputs(2, 33, 20, 16)
    rounded = {k: v.to(dtype).to(torch.float32) if k in NAMES else v for k, v in given.items()}
    found = run(given, backend, dtype)
    assert found[0].dtype == dtype
    expected = run(rounded, "naive", torch.float32)
    agree(found[:1], expected[:1], 4e-3 if dtype == torch.bfloat16 else 6e-4)  # one rounding of the output
    agree(found, expected, 8e-3 if dtype == torch.bfloat16 else 1e-3)


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 70, 300, 16), (9, 40, 50, 5)])
def test_bit_equal_again_and_for_any_number_of_threads(shape: tuple[int, int, int, int]) -> None:
    given, before = inputs(*shape), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(given, "cpu", torch.float32))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@needs_compiler
def test_fresh_memory_is_not_relied_on() -> None:
    given = inputs(2, 21, 19, 16)
    expected = run(given, "cpu", torch.float32)
    torch.use_deterministic_algorithms(True)  # torch.empty then gives NaN
    try:
        assert torch.empty(3).isnan().all()
        assert all(map(torch.equal, run(given, "cpu", torch.float32), expected))
    finally:
        torch.use_deterministic_algorithms(False)


STARVED = """
import resource, torch
from zigma_bench.ops.selective_scan import selective_scan
torch.set_num_threads(1)
rows = 40_000  # the sums over the batch take 46 MB of the kernel's own; its outputs take 13
u, delta, B, C = (torch.ones(rows, 1, 16, requires_grad=True) for _ in range(4))
A = torch.full((16, 16), -1.0, requires_grad=True)
y = selective_scan(u, delta, A, B, C, backend="cpu").sum()
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 28 * 2**20, -1))
try:
    y.backward()
except MemoryError as error:
    print(error)
"""


@needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says how much memory a process has")
def test_a_kernel_without_memory_is_an_error_and_no_crash() -> None:
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True)
    assert done.returncode == 0 and "scan_backward of the backend 'cpu' can't allocate memory" in done.stdout, (
        done.stderr
    )


@needs_compiler
def test_without_gradients_the_output_is_the_same() -> None:
    given = inputs(2, 35, 20, 16)
    assert torch.equal(selective_scan(**given, backend="cpu"), run(given, "cpu", torch.float32)[0])


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_gradients_against_finite_differences(backend: str) -> None:
    given = inputs(2, 18, 2, 2)
    given["delta_bias"] = given["delta_bias"] + 3
    tensors = {k: v.double().requires_grad_() for k, v in given.items() if k in NAMES}

    def function(*values: torch.Tensor) -> torch.Tensor:
        named: dict[str, Any] = dict(zip(tensors, values, strict=True))
        return selective_scan(**named, path=given["path"], backend=backend)

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), atol=1e-6)


def test_torch_blocks_follow_float64() -> None:
    given = inputs(2, 40, 6, 3)
    agree(run(given, "torch", torch.float64), run(given, "naive", torch.float64), 1e-13)


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_are_independent_sequences(backend: str, name: str) -> None:
    given, lengths = inputs(2, 63, 17, 5), SEGMENTS[name]
    path, dtype = given["path"], torch.float32 if backend == "cpu" else torch.float64
    assert not torch.equal(path[path], torch.arange(63))
    found = run(given, backend, dtype, segment_starts=since_of(lengths))
    tensors = {k: v.to(dtype).requires_grad_() for k, v in given.items() if k in NAMES}
    parts = []
    for rows in path.split(lengths):
        part = {k: v[:, rows] if v.dim() == 3 else v for k, v in tensors.items()}
        parts.append(selective_scan(**part, backend=backend))
    out = torch.cat(parts, 1)[:, path.argsort()]
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    expected = [out.detach(), *torch.autograd.grad(out, list(tensors.values()), grad)]
    agree(found, expected, 1e-6 if backend == "cpu" else 1e-13)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize(("channels", "states"), [(1, 1), (17, 5), (33, 16), (130, 20)])
def test_segments(backend: str, name: str, channels: int, states: int) -> None:
    given, segment_starts = inputs(3, 63, channels, states), since_of(SEGMENTS[name])
    found = run(given, backend, torch.float32, segment_starts=segment_starts)
    agree(found, run(given, "naive", torch.float64, segment_starts=segment_starts), 2e-5)


@pytest.mark.parametrize("backend", FAST)
def test_random_segments_over_many_groups_of_channels(backend: str) -> None:
    rng = torch.Generator().manual_seed(5)
    starts = torch.rand(200, generator=rng) < 0.15
    starts[0] = True
    segment_starts = (starts * torch.arange(200)).cummax(0).values
    given = inputs(2, 200, 16 * 17 + 3, 16)
    found = run(given, backend, torch.float32, segment_starts=segment_starts)
    agree(found, run(given, "naive", torch.float64, segment_starts=segment_starts), 2e-5)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("drop", [("path",), ("D", "z", "delta_bias")])
def test_segments_with_optional_inputs(backend: str, drop: tuple[str, ...]) -> None:
    given, segment_starts = inputs(2, 63, 20, 16, drop=drop), since_of(SEGMENTS["uneven"])
    given["path"] = None if "path" in drop else given["path"]
    found = run(given, backend, torch.float32, segment_starts=segment_starts)
    agree(found, run(given, "naive", torch.float64, segment_starts=segment_starts), 2e-5)


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("states", [5, 16])
def test_one_segment_is_the_same_as_none(backend: str, states: int) -> None:
    given = inputs(2, 40, 17, states)
    found = run(given, backend, torch.float32, segment_starts=torch.zeros(40, dtype=torch.int64))
    assert all(map(torch.equal, found, run(given, backend, torch.float32)))


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_segments_from_a_strided_view(backend: str) -> None:
    given, segment_starts = inputs(2, 63, 17, 16), since_of(SEGMENTS["uneven"])
    found = run(given, backend, torch.float32, segment_starts=torch.stack((segment_starts, segment_starts), 1)[:, 0])
    assert all(map(torch.equal, found, run(given, backend, torch.float32, segment_starts=segment_starts)))


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_segments_of_bfloat16(backend: str) -> None:
    given, segment_starts = inputs(2, 63, 20, 16), since_of(SEGMENTS["uneven"])
    rounded = {k: v.bfloat16().float() if k in NAMES else v for k, v in given.items()}
    found = run(given, backend, torch.bfloat16, segment_starts=segment_starts)
    assert found[0].dtype == torch.bfloat16
    agree(found, run(rounded, "naive", torch.float32, segment_starts=segment_starts), 8e-3)


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("extreme", [-50.0, 50.0])
@pytest.mark.parametrize("name", ["single", "uneven"])
def test_segments_with_extreme_step_sizes(backend: str, extreme: float, name: str) -> None:
    given, segment_starts = inputs(2, 63, 17, 16), since_of(SEGMENTS[name])
    given["delta"] = torch.full_like(given["delta"], extreme)
    found = run(given, backend, torch.float32, segment_starts=segment_starts)
    assert all(tensor.isfinite().all() for tensor in found)
    agree(found[:1], run(given, "naive", torch.float64, segment_starts=segment_starts)[:1], 2e-5)


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("states", [5, 16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["u", "delta"])  # that of u goes on in time, that of delta also back as a gradient
def test_what_is_not_finite_stays_in_its_segment(backend: str, states: int, value: float, name: str) -> None:
    given, segment_starts = inputs(1, 48, 16, states), since_of([5, 6, 5, 20, 12])  # starts at 5, 11, 16 and 36
    path = given["path"]
    given[name][0, path[[7, 18]], 3] = value
    clean = torch.tensor([*range(5), *range(11, 16), *range(36, 48)])
    found = run(given, backend, torch.float32, segment_starts=segment_starts)
    for index in (0, 1, 2, 7):  # the output, and the gradients of u, delta and z
        assert found[index][0, path[clean]].isfinite().all()
    assert not found[0][0, path[[*range(7, 11), *range(18, 36)]], 3].isfinite().any()


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 70, 300, 16), (9, 40, 50, 5)])
def test_segments_bit_equal_for_any_number_of_threads(shape: tuple[int, int, int, int]) -> None:
    given, before = inputs(*shape), torch.get_num_threads()
    segment_starts = since_of([1, 15, 1, 14, shape[1] - 31])
    try:
        results = []
        for threads in (1, 2, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(given, "cpu", torch.float32, segment_starts=segment_starts))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@needs_compiler
def test_segments_do_not_rely_on_fresh_memory() -> None:
    given, segment_starts = inputs(2, 63, 19, 5), since_of(SEGMENTS["uneven"])
    expected = run(given, "cpu", torch.float32, segment_starts=segment_starts)
    assert torch.equal(
        selective_scan(**given, segment_starts=segment_starts, backend="cpu"), expected[0]
    )  # nor on the starts kept
    torch.use_deterministic_algorithms(True)  # torch.empty then gives NaN
    try:
        assert all(map(torch.equal, run(given, "cpu", torch.float32, segment_starts=segment_starts), expected))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_gradients_of_segments_against_finite_differences(backend: str) -> None:
    given, segment_starts = inputs(1, 20, 2, 2), since_of([1, 4, 11, 4])  # starts at 1, 5 and 16
    given["delta_bias"] = given["delta_bias"] + 3
    tensors = {k: v.double().requires_grad_() for k, v in given.items() if k in NAMES}

    def function(*values: torch.Tensor) -> torch.Tensor:
        named: dict[str, Any] = dict(zip(tensors, values, strict=True))
        return selective_scan(**named, path=given["path"], segment_starts=segment_starts, backend=backend)

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"u": torch.zeros(2, 9)}, r"u has a wrong shape; expected \[B, L, E\]"),
        ({"delta": torch.zeros(2, 8, 4)}, r"delta has a wrong shape; expected \(2, 9, 4\); got \(2, 8, 4\)"),
        ({"A": torch.zeros(5, 3)}, r"A has a wrong shape; expected \(4, 3\)"),
        ({"B": torch.zeros(2, 9, 2)}, r"B has a wrong shape; expected \(2, 9, 3\)"),
        ({"C": torch.zeros(2, 9, 3, dtype=torch.int64)}, "C has a wrong dtype; expected a floating-point dtype"),
        ({"D": torch.zeros(1)}, "D has a wrong shape"),
        ({"z": torch.zeros(1, 9, 4)}, "z has a wrong shape"),
        ({"delta_bias": torch.zeros(4, 1)}, "delta_bias has a wrong shape"),
        ({"path": torch.arange(9, dtype=torch.int32)}, "path has a wrong dtype; expected torch.int64"),
        ({"path": torch.arange(8)}, r"path has a wrong shape; expected \(9,\); got \(8,\)"),
        ({"path": torch.zeros(9, dtype=torch.int64)}, "doesn't visit each of the rows 0 to 8 once"),
        ({"path": torch.arange(1, 10)}, "doesn't visit each of the rows 0 to 8 once"),
        (
            {"segment_starts": torch.zeros(9)},
            "segment_starts has a wrong dtype; expected torch.int64; got torch.float32",
        ),
        (
            {"segment_starts": torch.zeros(8, dtype=torch.int64)},
            r"segment_starts has a wrong shape; expected \(9,\); got \(8,\)",
        ),
        (
            {"segment_starts": torch.zeros(9, dtype=torch.int64, device="meta")},
            "segment_starts is on another device; expected cpu",
        ),
        (
            {"segment_starts": torch.ones(9, dtype=torch.int64)},
            r"segment_starts\[0\] isn't the step at which .*; expected 0; got 1",
        ),
        (
            {"segment_starts": torch.tensor([0, 0, 2, 2, 0, 0, 0, 0, 0])},
            r"\[4\] isn't the step at which the segment of step 4 starts; expected 4, or 2 as at the step before",
        ),
        (
            {"segment_starts": torch.tensor([0, 0, 3, 3, 3, 3, 3, 3, 3])},
            r"segment_starts\[2\] isn't .* expected 2, or 0 .* got 3",
        ),
        (
            {"segment_starts": torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, -1])},
            r"segment_starts\[8\] isn't .* expected 8, or 0 .* got -1",
        ),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        selective_scan(**{**inputs(2, 9, 4, 3), **change}, backend="naive")


@pytest.mark.parametrize("name", ["fsed", "auto"])
def test_only_resolved_backends(name: str) -> None:
    with pytest.raises(
        UnknownName,
        match=f"selective_scan: no backend is called '{name}'; expected one of cpu, fused, mamba-ssm, naive",
    ):
        selective_scan(**inputs(1, 3, 2, 2), backend=name)


def test_the_cpu_backend_refuses_float64() -> None:
    given = {k: v.double() if k in NAMES else v for k, v in inputs(1, 3, 2, 2).items()}
    with pytest.raises(
        UsageError, match=r"doesn't support the dtype of \w+; expected one of float32.*choose the backend 'naive'"
    ):
        selective_scan(**given, backend="cpu")
