"""Every backend of the causal convolution against the naive loop in float64, and that against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from zigma_bench.errors import UnknownName, UsageError
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.compiler import find_compiler

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
FAST = ("torch", pytest.param("cpu", marks=needs_compiler))


def inputs(batch: int, length: int, channels: int, width: int = 4) -> list[torch.Tensor]:
    """x [B, L, E], weight [E, W], bias [E] and a path [L]."""
    rng = torch.Generator().manual_seed(1)
    x, weight = torch.randn(batch, length, channels, generator=rng), torch.randn(channels, width, generator=rng)
    return [x, weight, torch.randn(channels, generator=rng), torch.randperm(length, generator=rng)]


def since_of(lengths: list[int]) -> torch.Tensor:
    """The step at which each step's segment began."""
    return torch.tensor([sum(lengths[:i]) for i, length in enumerate(lengths) for _ in range(length)])


SEGMENTS = ([63], [1] * 63, [16, 16, 16, 15], [15, 16, 16, 16], [17, 16, 16, 14], [1, 1, 2, 3, 4, 5, 18, 1, 27, 1])


def run(given: list[torch.Tensor], backend: str, dtype: torch.dtype, **options: Any) -> list[torch.Tensor]:
    """The output and every gradient, under one fixed gradient of the output."""
    tensors = [tensor.to(dtype).detach().requires_grad_() for tensor in given[:3]]
    y = causal_conv(tensors[0], tensors[1], tensors[2], path=given[3], backend=backend, **options)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    return [y.detach(), *torch.autograd.grad(y, tensors, grad)]


def agree(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    for index, (mine, right) in enumerate(zip(found, expected, strict=True)):
        assert mine.shape == right.shape
        error = (mine.double() - right.double()).norm() / right.double().norm()
        assert error < bound, (index, float(error))


@pytest.mark.parametrize("activation", ["silu", "none"])
def test_naive_is_torchs_convolution_after_a_gather(activation: str) -> None:
    x, weight, bias, path = inputs(2, 13, 6)
    channel_first = F.pad(x[:, path].transpose(1, 2), (3, 0))
    expected = F.conv1d(channel_first, weight[:, None], bias, groups=6).transpose(1, 2)
    expected = F.silu(expected) if activation == "silu" else expected
    found = causal_conv(x, weight, bias, path=path, activation=activation, backend="naive")  # type: ignore[arg-type]
    torch.testing.assert_close(found[:, path], expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 63, 64, 500])
def test_lengths(backend: str, length: int) -> None:
    given = inputs(2, length, 24)
    agree(run(given, backend, torch.float32), run(given, "naive", torch.float64), 2e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("channels", [1, 15, 17, 300])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("activation", ["silu", "none"])
def test_odd_channels_and_widths(backend: str, channels: int, width: int, activation: str) -> None:
    given = inputs(3, 9, channels, width)
    found = run(given, backend, torch.float32, activation=activation)
    agree(found, run(given, "naive", torch.float64, activation=activation), 2e-6)


@pytest.mark.parametrize("backend", FAST)
def test_without_bias_and_path(backend: str) -> None:
    x, weight, _, _ = inputs(2, 20, 24)
    expected = causal_conv(x.double(), weight.double(), None, backend="naive")
    agree([causal_conv(x, weight, None, backend=backend)], [expected], 2e-6)


@pytest.mark.parametrize("backend", FAST)
def test_views(backend: str) -> None:
    given = inputs(2, 20, 48)
    halves, far = given[0].chunk(2, -1), given[0][..., :24].transpose(1, 2).contiguous().transpose(1, 2)
    rest = (given[1][:24], given[2][:24])
    expected = causal_conv(halves[0].contiguous(), *rest, path=given[3], backend=backend)
    for view in (halves[0], far):
        assert torch.equal(causal_conv(view, *rest, path=given[3], backend=backend), expected)


@pytest.mark.parametrize("backend", FAST)
def test_extreme_sums_stay_finite(backend: str) -> None:
    given = [inputs(2, 20, 24)[0] * 1e4, *inputs(2, 20, 24)[1:]]
    found = run(given, backend, torch.float32)
    assert all(tensor.isfinite().all() for tensor in found)
    agree(found, run(given, "naive", torch.float64), 2e-5)


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_bfloat16_is_computed_in_float32(backend: str) -> None:
    given = inputs(2, 33, 20)
    rounded = [*(tensor.bfloat16().float() for tensor in given[:3]), given[3]]
    found = run(given, backend, torch.bfloat16)
    assert found[0].dtype == torch.bfloat16
    agree(found, run(rounded, "naive", torch.float32), 8e-3)


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 70, 300), (9, 40, 50)])
def test_bit_equal_again_and_for_any_number_of_threads(shape: tuple[int, int, int]) -> None:
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


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_gradients_against_finite_differences(backend: str) -> None:
    x, weight, bias, path = inputs(2, 7, 3)

    def function(*values: torch.Tensor) -> torch.Tensor:
        return causal_conv(values[0], values[1], values[2], path=path, backend=backend)

    assert torch.autograd.gradcheck(function, tuple(t.double().requires_grad_() for t in (x, weight, bias)))


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("lengths", SEGMENTS)
def test_segments_are_independent_sequences(backend: str, lengths: list[int]) -> None:
    given = inputs(2, 63, 17)
    path, dtype = given[3], torch.float32 if backend == "cpu" else torch.float64
    assert not torch.equal(path[path], torch.arange(63))
    found = run(given, backend, dtype, segment_starts=since_of(lengths))
    x, weight, bias = tensors = [tensor.to(dtype).requires_grad_() for tensor in given[:3]]
    parts = [causal_conv(x[:, rows], weight, bias, backend=backend) for rows in path.split(lengths)]
    y = torch.cat(parts, 1)[:, path.argsort()]
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    agree(found, [y.detach(), *torch.autograd.grad(y, tensors, grad)], 1e-6 if backend == "cpu" else 1e-14)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("lengths", SEGMENTS)
@pytest.mark.parametrize(("channels", "width"), [(1, 2), (15, 1), (17, 4), (300, 4), (33, 7)])
@pytest.mark.parametrize("activation", ["silu", "none"])
def test_segments(backend: str, lengths: list[int], channels: int, width: int, activation: str) -> None:
    given, segment_starts = inputs(3, 63, channels, width), since_of(lengths)
    found = run(given, backend, torch.float32, segment_starts=segment_starts, activation=activation)
    agree(found, run(given, "naive", torch.float64, segment_starts=segment_starts, activation=activation), 2e-6)


@pytest.mark.parametrize("backend", FAST)
def test_segments_without_bias_and_path_from_a_strided_view(backend: str) -> None:
    (x, weight, _, _), segment_starts = inputs(2, 63, 24), since_of(SEGMENTS[-1])
    expected = causal_conv(x.double(), weight.double(), None, segment_starts=segment_starts, backend="naive")
    view = torch.stack((segment_starts, segment_starts), 1)[:, 0]
    agree([causal_conv(x, weight, None, segment_starts=view, backend=backend)], [expected], 2e-6)


@pytest.mark.parametrize("backend", ["naive", *FAST])
@pytest.mark.parametrize("width", [4, 7])
def test_one_segment_is_the_same_as_none(backend: str, width: int) -> None:
    given = inputs(2, 40, 17, width)
    found = run(given, backend, torch.float32, segment_starts=torch.zeros(40, dtype=torch.int64))
    assert all(map(torch.equal, found, run(given, backend, torch.float32)))


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_segments_of_bfloat16(backend: str) -> None:
    given, segment_starts = inputs(2, 63, 20), since_of(SEGMENTS[-1])
    rounded = [*(tensor.bfloat16().float() for tensor in given[:3]), given[3]]
    found = run(given, backend, torch.bfloat16, segment_starts=segment_starts)
    assert found[0].dtype == torch.bfloat16
    agree(found, run(rounded, "naive", torch.float32, segment_starts=segment_starts), 8e-3)


@pytest.mark.parametrize("backend", ["naive", *FAST])
def test_what_is_not_finite_stays_in_its_segment(backend: str) -> None:
    given, segment_starts = inputs(1, 48, 16), since_of([5, 11, 20, 12])  # starts at 5, 16 and 36
    path = given[3]
    given[0][0, path[[17, 35]]] = float("nan")
    for tensor in run(given, backend, torch.float32, segment_starts=segment_starts)[
        :2
    ]:  # the output and the gradient of x
        in_order = tensor[0, path]
        assert in_order[:16].isfinite().all() and in_order[36:].isfinite().all()
        assert in_order[[17, 35]].isnan().all()


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 70, 300), (9, 40, 50)])
def test_segments_bit_equal_for_any_number_of_threads(shape: tuple[int, int, int]) -> None:
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


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_gradients_of_segments_against_finite_differences(backend: str) -> None:
    (x, weight, bias, path), segment_starts = inputs(2, 9, 3), since_of([1, 2, 6])

    def function(*values: torch.Tensor) -> torch.Tensor:
        return causal_conv(values[0], values[1], values[2], path=path, segment_starts=segment_starts, backend=backend)

    assert torch.autograd.gradcheck(function, tuple(t.double().requires_grad_() for t in (x, weight, bias)))


def test_wrong_inputs_are_named() -> None:
    x, weight, bias, path = inputs(2, 9, 4)
    with pytest.raises(UsageError, match=r"x has a wrong shape; expected \[B, L, E\]"):
        causal_conv(x[0], weight, bias, backend="naive")
    with pytest.raises(UsageError, match=r"weight has a wrong shape; expected \(4, 4\); got \(3, 4\)"):
        causal_conv(x, weight[:3], bias, backend="naive")
    with pytest.raises(UsageError, match="bias has a wrong shape"):
        causal_conv(x, weight, bias[:3], backend="naive")
    with pytest.raises(UsageError, match="path has a wrong dtype"):
        causal_conv(x, weight, bias, path=path.int(), backend="naive")
    with pytest.raises(UsageError, match="path has a wrong shape"):
        causal_conv(x, weight, bias, path=path[:8], backend="naive")
    with pytest.raises(UsageError, match=r"causal_conv: segment_starts has a wrong dtype; expected torch\.int64"):
        causal_conv(x, weight, bias, segment_starts=torch.zeros(9), backend="naive")
    with pytest.raises(UsageError, match=r"segment_starts has a wrong shape; expected \(9,\)"):
        causal_conv(x, weight, bias, segment_starts=torch.zeros(8, dtype=torch.int64), backend="naive")
    with pytest.raises(
        UsageError, match=r"segment_starts\[1\] isn't the step .* starts; expected 1, or 0 as at .*; got 7"
    ):
        causal_conv(x, weight, bias, segment_starts=torch.tensor([0, *[7] * 8]), backend="naive")
    with pytest.raises(UsageError, match="unknown activation; expected silu or none; got 'relu'"):
        causal_conv(x, weight, bias, activation="relu", backend="naive")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'naive'"):
        causal_conv(x, weight, bias, backend="naiv")
    with pytest.raises(UsageError, match="doesn't support the dtype of x"):
        causal_conv(x.double(), weight, bias, backend="cpu")
