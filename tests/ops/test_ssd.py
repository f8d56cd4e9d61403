"""Both forms of SSD against each other and against the selective scan, which it is with one decay a head."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.ops.backends import BACKENDS
from zigma_bench.ops.selective_scan import selective_scan
from zigma_bench.ops.ssd import chunks, ssd

NAMES = ("x", "dt", "A", "B", "C", "D", "dt_bias")
LENGTHS = [1, 63, 64, 65, 200]


def inputs(
    batch: int, length: int, heads: int, head_dim: int, groups: int, states: int, *, drop: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Random float32 inputs of the size that a network gives at its start; `drop` names those left out."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    given: dict[str, Any] = {
        "x": normal(batch, length, heads * head_dim),
        "dt": normal(batch, length, heads),
        "A": -torch.rand(heads, generator=rng) * 15 - 1,
        "B": normal(batch, length, groups, states),
        "C": normal(batch, length, groups, states),
        "D": normal(heads),
        "dt_bias": normal(heads) - 3,
    }
    path = torch.randperm(length, generator=rng)
    return {**{name: value for name, value in given.items() if name not in drop}, "path": path}


# Lengths of segments: 200 steps in all, with starts at, before and after multiples of 64 (a chunk).
SEGMENTS = {
    "one": [200],
    "single": [1] * 200,
    "at": [64, 64, 64, 8],
    "before": [63, 64, 64, 9],
    "after": [65, 64, 64, 7],
    "uneven": [1, 1, 30, 1, 140, 2, 24, 1],
}


def since_of(lengths: list[int]) -> torch.Tensor:
    """The step at which each step's segment began."""
    return torch.tensor([sum(lengths[:i]) for i, length in enumerate(lengths) for _ in range(length)])


def some_segments(length: int) -> torch.Tensor:
    starts = torch.rand(length, generator=torch.Generator().manual_seed(3)) < 0.1
    starts[0] = True
    return (starts * torch.arange(length)).cummax(0).values


def run(given: dict[str, Any], backend: str, dtype: torch.dtype, device: str = "cpu", **options: Any) -> list[Any]:
    """The output and the gradient of every tensor, under one fixed gradient of the output."""
    tensors = {k: v.to(device, dtype).detach().requires_grad_() for k, v in given.items() if k in NAMES}
    path = None if given["path"] is None else given["path"].to(device)
    out = ssd(**tensors, path=path, backend=backend, **options)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(device, dtype)
    return [out.detach(), *torch.autograd.grad(out, list(tensors.values()), grad)]


def agree(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    """Every tensor within `bound` of the expected one, relative to its norm."""
    for index, (mine, right) in enumerate(zip(found, expected, strict=True)):
        assert mine.shape == right.shape
        error = (mine.cpu().double() - right.double()).norm() / right.double().norm().clamp_min(1e-30)
        assert error < bound, (index, float(error))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_lengths(length: int, segments: bool, dtype: torch.dtype, bound: float) -> None:
    given, segment_starts = inputs(2, length, 4, 5, 2, 6), some_segments(length) if segments else None
    path = given["path"]
    assert length == 1 or not torch.equal(path[path], torch.arange(length))
    agree(
        run(given, "torch", dtype, segment_starts=segment_starts),
        run(given, "naive", torch.float64, segment_starts=segment_starts),
        bound,
    )


@pytest.mark.parametrize(
    ("heads", "head_dim", "groups", "states"), [(1, 1, 1, 1), (3, 8, 1, 16), (6, 4, 3, 5), (4, 7, 4, 9)]
)
def test_heads_and_groups(heads: int, head_dim: int, groups: int, states: int) -> None:
    given, segment_starts = inputs(3, 130, heads, head_dim, groups, states), some_segments(130)
    agree(
        run(given, "torch", torch.float32, segment_starts=segment_starts),
        run(given, "naive", torch.float64, segment_starts=segment_starts),
        2e-5,
    )


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_the_selective_scan_with_one_decay_a_head(backend: str, groups: int) -> None:
    """Mamba's own recurrence, A and dt repeated for the channels of a head, one call a group: outputs and gradients."""
    given, segment_starts = inputs(2, 100, 4, 3, groups, 5), some_segments(100)
    tensors = {k: v.double().requires_grad_() for k, v in given.items() if k in NAMES}
    parts = []
    for g in range(groups):
        heads = slice(g * 4 // groups, (g + 1) * 4 // groups)
        D, bias, A = (tensors[name][heads].repeat_interleave(3) for name in ("D", "dt_bias", "A"))
        parts.append(
            selective_scan(
                tensors["x"].unflatten(-1, (4, 3))[:, :, heads].flatten(2),
                tensors["dt"][..., heads].repeat_interleave(3, -1),
                A[:, None].expand(-1, 5),
                tensors["B"][:, :, g],
                tensors["C"][:, :, g],
                D=D,
                delta_bias=bias,
                path=given["path"],
                segment_starts=segment_starts,
                backend="naive",
            )
        )
    out = torch.cat(parts, -1)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).double()
    expected = [out.detach(), *torch.autograd.grad(out, list(tensors.values()), grad)]
    agree(run(given, backend, torch.float64, segment_starts=segment_starts), expected, 1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 16, 256])
@pytest.mark.parametrize("segments", [False, True])
def test_any_length_of_chunks_gives_the_same(monkeypatch: Any, chunk: int, segments: bool) -> None:
    given, segment_starts = inputs(2, 100, 2, 3, 1, 4), some_segments(100) if segments else None
    expected = run(given, "torch", torch.float64, segment_starts=segment_starts)
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    agree(run(given, "torch", torch.float64, segment_starts=segment_starts), expected, 1e-12)


@pytest.mark.parametrize("drop", [("D",), ("dt_bias",), ("D", "dt_bias"), ("path",)])
def test_optional_inputs(drop: tuple[str, ...]) -> None:
    given = inputs(2, 70, 2, 4, 1, 6, drop=drop)
    given["path"] = None if "path" in drop else given["path"]
    agree(run(given, "torch", torch.float32), run(given, "naive", torch.float64), 2e-5)


def test_without_softplus() -> None:
    given = inputs(2, 70, 2, 4, 1, 6)
    given["dt"], given["dt_bias"] = given["dt"].abs() * 0.1, given["dt_bias"].abs() * 0.01
    expected = run(given, "naive", torch.float64, dt_softplus=False)
    agree(run(given, "torch", torch.float32, dt_softplus=False), expected, 2e-5)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_a_path_is_a_permutation_before_and_its_inverse_after(backend: str) -> None:
    given = inputs(2, 97, 2, 4, 1, 6)
    path = given.pop("path")
    moved = {k: v[:, path] if v.dim() >= 3 else v for k, v in given.items()}
    in_order = ssd(**moved, backend=backend)
    assert not torch.equal(path[path], torch.arange(97))  # a path and its inverse must not be mistaken
    torch.testing.assert_close(ssd(**given, path=path, backend=backend)[:, path], in_order)


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_are_independent_sequences(backend: str, name: str) -> None:
    given, lengths = inputs(2, 200, 2, 3, 1, 5), SEGMENTS[name]
    found = run(given, backend, torch.float64, segment_starts=since_of(lengths))
    tensors = {k: v.double().requires_grad_() for k, v in given.items() if k in NAMES}
    parts = []
    for rows in given["path"].split(lengths):
        part: dict[str, Any] = {k: v[:, rows] if v.dim() >= 3 else v for k, v in tensors.items()}
        parts.append(ssd(**part, backend=backend))
    out = torch.cat(parts, 1)[:, given["path"].argsort()]
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).double()
    agree(found, [out.detach(), *torch.autograd.grad(out, list(tensors.values()), grad)], 1e-12)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_one_segment_is_the_same_as_none(backend: str) -> None:
    given = inputs(2, 100, 2, 4, 1, 6)
    found = run(given, backend, torch.float32, segment_starts=torch.zeros(100, dtype=torch.int64))
    assert all(map(torch.equal, found, run(given, backend, torch.float32)))


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["x", "dt", "B", "C"])
def test_what_is_not_finite_stays_in_its_segment(backend: str, value: float, name: str) -> None:
    """Segments that share a chunk, that reach over the end of one, and that fill one."""
    lengths = [5, 6, 5, 100, 12, 64, 8]  # starts at 5, 11, 16, 116, 128 and 192
    given, segment_starts = inputs(1, 200, 2, 4, 1, 6), since_of(lengths)
    path = given["path"]
    spoiled = [*range(5, 11), *range(16, 116), *range(128, 192)]
    given[name].flatten(2)[0, path[[7, 30, 130]], 1] = value
    clean = torch.tensor([step for step in range(200) if step not in spoiled])
    found = run(given, backend, torch.float32, segment_starts=segment_starts)
    for index in (0, 1, 2, 4, 5):  # the output, and the gradients of x, dt, B and C
        assert found[index][0, path[clean]].isfinite().all(), index
    fine = {k: torch.where(v.isfinite(), v, 0) if k in NAMES else v for k, v in given.items()}
    expected = run(fine, "naive", torch.float64, segment_starts=segment_starts)
    agree([found[0][:, path[clean]]], [expected[0][:, path[clean]]], 2e-5)
    if name == "C":  # which only the step itself reads
        assert not found[0][0, path[[7, 30, 130]]].isfinite().any()
    elif (name, value) != ("dt", -float("inf")):  # no step at all
        rows = found[0][0, path[[*range(7, 11), *range(30, 116), *range(130, 192)]]]
        assert not rows[:, 1 if name == "x" else 4].isfinite().any()


@pytest.mark.parametrize("segments", [False, True])
def test_a_nan_is_not_hidden(segments: bool) -> None:
    given = inputs(1, 150, 2, 4, 1, 6)
    given["x"][0, int(given["path"][70]), 5] = float("nan")
    segment_starts = torch.zeros(150, dtype=torch.int64) if segments else None
    out = ssd(**given, segment_starts=segment_starts, backend="torch")[:, given["path"]]
    assert out[0, 70:, 5].isnan().all()
    assert out[0, :, :4].isfinite().all(), "the other head"
    assert segment_starts is None or out[0, :70].isfinite().all()


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("extreme", [-50.0, 50.0])
@pytest.mark.parametrize("segments", [False, True])
def test_extreme_step_sizes_stay_finite(backend: str, extreme: float, segments: bool) -> None:
    given, segment_starts = inputs(2, 200, 2, 4, 1, 6), some_segments(200) if segments else None
    given["dt"] = torch.full_like(given["dt"], extreme)
    found = run(given, backend, torch.float32, segment_starts=segment_starts)
    assert all(tensor.isfinite().all() for tensor in found)
    agree(found[:1], run(given, "naive", torch.float64, segment_starts=segment_starts)[:1], 2e-5)


def test_steps_that_forget_all_leave_the_others_exact() -> None:
    """Sums within a chunk that reach thousands, beside steps that keep nearly everything."""
    given = inputs(2, 200, 2, 4, 1, 6)
    given["dt"] = torch.where(given["dt"] > 0, 100.0, -3.0)
    agree(run(given, "torch", torch.float32), run(given, "naive", torch.float64), 2e-5)
    agree(run(given, "torch", torch.float64), run(given, "naive", torch.float64), 1e-10)


def test_views_give_what_copies_give() -> None:
    given = inputs(2, 90, 2, 4, 1, 6)
    expected = run(given, "torch", torch.float32)
    whole = torch.cat((given["x"], given["B"].flatten(2), given["C"].flatten(2), given["dt"]), -1).requires_grad_()
    x, B, C, dt = whole.split([8, 6, 6, 2], -1)
    named = {"x": x, "dt": dt, "B": B.unflatten(-1, (1, 6)), "C": C.unflatten(-1, (1, 6))}
    out = ssd(**{**given, **named}, backend="torch")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    scattered = grad.transpose(1, 2).contiguous().transpose(1, 2)
    (found,) = torch.autograd.grad(out, whole, scattered)
    right = torch.cat((expected[1], expected[4].flatten(2), expected[5].flatten(2), expected[2]), -1)
    agree([out, found], [expected[0], right], 1e-6)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_half_inputs(backend: str, segments: bool) -> None:
    """float16 is computed in float32; bfloat16 so too by naive, while the products of chunks round their factors."""
    given, segment_starts = inputs(2, 200, 4, 8, 2, 16), some_segments(200) if segments else None
    for dtype, bound in ((torch.float16, 2e-3), (torch.bfloat16, 1e-2)):
        rounded = {k: v.to(dtype).double() if k in NAMES else v for k, v in given.items()}
        found = run(given, backend, dtype, segment_starts=segment_starts)
        assert all(tensor.dtype == dtype for tensor in found)
        agree(found, run(rounded, "naive", torch.float64, segment_starts=segment_starts), bound)


def test_autocast_does_not_touch_the_products() -> None:
    given = inputs(2, 100, 2, 4, 1, 6)
    expected = run(given, "torch", torch.float32)
    tensors = {k: v.requires_grad_() if k in NAMES else v for k, v in given.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ssd(**tensors, backend="torch")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    found = [out, *torch.autograd.grad(out, [tensors[name] for name in NAMES], grad)]
    assert all(map(torch.equal, found, expected))


def test_the_matrices_of_chunks_are_not_kept() -> None:
    """What waits for the backward is of the size of the inputs."""
    given = inputs(2, 256, 8, 4, 1, 4)
    tensors = {k: v.requires_grad_() if k in NAMES else v for k, v in given.items()}
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ssd(**tensors, backend="torch")
    assert 0 < sum(kept) < 2 * sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("segments", [False, True])
def test_gradients_against_finite_differences(monkeypatch: Any, backend: str, segments: bool) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 8)
    given, segment_starts = inputs(1, 20, 2, 2, 1, 2), since_of([1, 4, 11, 4]) if segments else None
    given["dt_bias"] = given["dt_bias"] + 3
    given["A"] = given["A"] / 8
    tensors = {k: v.double().requires_grad_() for k, v in given.items() if k in NAMES}

    def function(*values: torch.Tensor) -> torch.Tensor:
        named: dict[str, Any] = dict(zip(tensors, values, strict=True))
        return ssd(**named, path=given["path"], segment_starts=segment_starts, backend=backend)

    assert torch.autograd.gradcheck(function, tuple(tensors.values()), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_backend_cpu_runs_the_portable_form(dtype: torch.dtype) -> None:
    given = inputs(2, 100, 2, 4, 1, 6)
    assert all(map(torch.equal, run(given, "cpu", dtype), run(given, "torch", dtype)))


def test_a_backend_without_a_form_is_refused(monkeypatch: Any) -> None:
    monkeypatch.delitem(BACKENDS["cpu"].operators, "ssd")
    expected = "ssd: the backend 'cpu' doesn't compute this operator; expected one of naive, torch, fused, triton"
    with pytest.raises(NotReady, match=expected):
        ssd(**inputs(1, 3, 1, 1, 1, 1), backend="cpu")
    for name in ("fsed", "auto"):
        with pytest.raises(UnknownName, match=f"ssd: no backend is called '{name}'"):
            ssd(**inputs(1, 3, 1, 1, 1, 1), backend=name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(2, 9)}, r"x has a wrong shape; expected \[B, L, E\]"),
        ({"x": torch.zeros(2, 9, 7)}, "the heads don't divide the channels; expected a divisor of 7; got 4"),
        ({"dt": torch.zeros(2, 9, 8)}, r"dt has a wrong shape; expected \(2, 9, 4\); got \(2, 9, 8\)"),
        ({"A": torch.zeros(4, 3)}, r"the heads don't divide the channels; .* got 12"),
        ({"A": torch.zeros(4, 1)}, r"A has a wrong shape; expected \(4,\); got \(4, 1\)"),
        ({"B": torch.zeros(2, 9, 6)}, r"B has a wrong shape; expected \[B, L, G, N\]"),
        ({"B": torch.zeros(2, 9, 3, 6)}, "the groups don't divide the heads; expected a divisor of 4; got 3"),
        ({"B": torch.zeros(1, 9, 2, 6)}, r"B has a wrong shape; expected \(2, 9, 2, 6\)"),
        ({"C": torch.zeros(2, 9, 2, 6, dtype=torch.int64)}, "C has a wrong dtype; expected a floating-point dtype"),
        ({"D": torch.zeros(8)}, "D has a wrong shape"),
        ({"dt_bias": torch.zeros(1)}, "dt_bias has a wrong shape"),
        ({"path": torch.arange(8)}, r"path has a wrong shape; expected \(9,\)"),
        ({"path": torch.zeros(9, dtype=torch.int64)}, "doesn't visit each of the rows 0 to 8 once"),
        ({"segment_starts": torch.ones(9, dtype=torch.int64)}, r"segment_starts\[0\] isn't the step"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ssd(**{**inputs(2, 9, 4, 2, 2, 6), **change}, backend="naive")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("length", [1, 65, 500])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("segments", [False, True])
def test_on_cuda(length: int, dtype: torch.dtype, bound: float, segments: bool) -> None:
    given, segment_starts = inputs(2, length, 4, 16, 2, 32), some_segments(length) if segments else None
    rounded = {k: v.to(dtype).double() if k in NAMES else v for k, v in given.items()}
    expected = run(rounded, "naive", torch.float64, segment_starts=segment_starts)
    on_gpu = None if segment_starts is None else segment_starts.cuda()
    agree(run(given, "torch", dtype, "cuda", segment_starts=on_gpu), expected, bound)
