"""Every backend of the selective scan against the naive loop in float64: outputs, gradients, paths, odd sizes."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"u": torch.zeros(2, 9)}, r"u has a wrong shape; expected \[B, L, E\]"),
        ({"delta": torch.zeros(2, 8, 4)}, r"delta has a wrong shape; expected \(2, 9, 4\); got \(2, 8, 4\)"),
        ({"A": torch.zeros(5, 3)}, r"A has a wrong shape; expected \(4, 3\)"),
        ({"B": torch.zeros(2, 9, 2)}, r"B has a wrong shape; expected \(2, 9, 3\)"),
        ({"C": torch.zeros(2, 9, 3, dtype=torch.int64)}, "C has a wrong dtype; expected floating numbers"),
        ({"D": torch.zeros(1)}, "D has a wrong shape"),
        ({"z": torch.zeros(1, 9, 4)}, "z has a wrong shape"),
        ({"delta_bias": torch.zeros(4, 1)}, "delta_bias has a wrong shape"),
        ({"path": torch.arange(9, dtype=torch.int32)}, "path has a wrong dtype; expected torch.int64"),
        ({"path": torch.arange(8)}, r"path has a wrong shape; expected \(9,\); got \(8,\)"),
        ({"path": torch.zeros(9, dtype=torch.int64)}, "doesn't visit each of the rows 0 to 8 once"),
        ({"path": torch.arange(1, 10)}, "doesn't visit each of the rows 0 to 8 once"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        selective_scan(**{**inputs(2, 9, 4, 3), **change}, backend="naive")


@pytest.mark.parametrize("name", ["fsed", "auto"])
def test_only_resolved_backends(name: str) -> None:
    with pytest.raises(UnknownName, match=f"selective_scan: no backend is called '{name}'; expected one of cpu, naive"):
        selective_scan(**inputs(1, 3, 2, 2), backend=name)


def test_the_cpu_backend_refuses_float64() -> None:
    given = {k: v.double() if k in NAMES else v for k, v in inputs(1, 3, 2, 2).items()}
    with pytest.raises(UsageError, match=r"computes in float32.*take the backend 'naive'"):
        selective_scan(**given, backend="cpu")
