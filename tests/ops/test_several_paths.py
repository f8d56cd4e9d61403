"""Several paths in one call, and a state before the first step: against the naive loop, path by path."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.ops.backends import available
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.selective_scan import selective_scan

BOUNDS = {"naive": 1e-12, "torch": 1e-12, "cpu": 3e-6, "fused": 3e-5, "triton": 3e-5}
CARD = ("fused", "triton")
BATCH, LENGTH, CHANNELS, STATES = 2, 70, 20, 5
ONE = {
    "u": (BATCH, LENGTH, CHANNELS), "delta": (BATCH, LENGTH, CHANNELS), "A": (CHANNELS, STATES),
    "B": (BATCH, LENGTH, STATES), "C": (BATCH, LENGTH, STATES), "D": (CHANNELS,), "z": (BATCH, LENGTH, CHANNELS),
    "delta_bias": (CHANNELS,), "initial": (BATCH, CHANNELS, STATES),
}  # fmt: skip
SEPARATE = tuple(name for name in ONE if name not in ("u", "z"))  # as VisionMamba's branches


@pytest.fixture(params=BOUNDS)
def backend(request: pytest.FixtureRequest) -> str:
    if reason := available()[request.param]:
        pytest.skip(reason.splitlines()[0])
    return str(request.param)


def inputs(paths: int, separate: tuple[str, ...]) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {
        name: torch.randn(*((paths,) if name in separate else ()), *shape, generator=rng, dtype=torch.float64)
        for name, shape in ONE.items()
    }
    given["A"] = -given["A"].abs() - 0.1
    given["path"] = torch.stack([torch.randperm(LENGTH, generator=rng) for _ in range(paths)])
    given["segment_starts"] = (torch.arange(LENGTH) >= 17) * 17
    return given


def run(given: dict[str, Any], backend: str) -> list[torch.Tensor]:
    """The output and the gradient of every floating input, in float64 on the CPU."""
    device = "cuda" if backend in CARD else "cpu"
    dtype = torch.float64 if backend in ("naive", "torch") else torch.float32
    tensors = {name: x.to(device, dtype if x.is_floating_point() else x.dtype) for name, x in given.items()}
    leaves = [x.requires_grad_() for x in tensors.values() if x.is_floating_point()]
    out = selective_scan(**tensors, backend=backend)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(device, dtype)
    return [x.detach().cpu().double() for x in (out, *torch.autograd.grad(out, leaves, grad))]


def agree(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    for index, (mine, right) in enumerate(zip(found, expected, strict=True)):
        assert mine.shape == right.shape
        assert (mine - right).norm() <= bound * right.norm(), index


@pytest.mark.parametrize("paths", [1, 4, 8])
@pytest.mark.parametrize("separate", [(), SEPARATE, tuple(ONE)])
def test_paths_are_scanned_apart_and_summed(backend: str, paths: int, separate: tuple[str, ...]) -> None:
    given = inputs(paths, separate)
    leaves = {name: x.requires_grad_() for name, x in given.items() if x.is_floating_point()}
    outs = []
    for k in range(paths):
        one = {name: x[k] if name in (*separate, "path") else x for name, x in given.items()}
        outs.append(selective_scan(**one, backend="naive"))
    out = torch.stack(outs).sum(0)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    expected = [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)]
    agree(run({name: x.detach() for name, x in given.items()}, backend), expected, BOUNDS[backend])


def test_a_scan_continues_from_the_final_state_of_another(backend: str) -> None:
    """One path cut in two: the second half begins with the state after the first, found by linearity."""
    given = inputs(1, ())
    del given["path"], given["segment_starts"], given["z"], given["D"]
    whole = run(given, backend)[0]
    cut = 30
    h = given["initial"].clone()
    step = torch.nn.functional.softplus(given["delta"] + given["delta_bias"])
    for t in range(cut):
        d = step[:, t, :, None]
        h = torch.exp(d * given["A"]) * h + d * given["u"][:, t, :, None] * given["B"][:, t, None, :]
    rest = {name: x[:, cut:] if name in ("u", "delta", "B", "C") else x for name, x in given.items()}
    agree([run({**rest, "initial": h}, backend)[0]], [whole[:, cut:]], BOUNDS[backend])


def test_convolutions_of_several_paths_stay_apart(backend: str) -> None:
    rng = torch.Generator().manual_seed(0)
    device, dtype = ("cuda", torch.float32) if backend in CARD else ("cpu", torch.float32)
    x, weight, bias = (torch.randn(*shape, generator=rng) for shape in [(2, 40, 12), (3, 12, 4), (12,)])
    path = torch.stack([torch.randperm(40, generator=rng) for _ in range(3)])
    x, weight, bias, path = (tensor.to(device) for tensor in (x.to(dtype), weight, bias, path))
    found = causal_conv(x, weight, bias, path=path, backend=backend)
    assert found.shape == (3, 2, 40, 12)
    for k in range(3):
        right = causal_conv(
            x.cpu().double(), weight[k].cpu().double(), bias.cpu().double(), path=path[k].cpu(), backend="naive"
        )
        torch.testing.assert_close(found[k].cpu().double(), right, atol=1e-5, rtol=1e-5)


def test_unlike_numbers_of_paths_are_refused() -> None:
    given = inputs(3, ("delta",))
    with pytest.raises(UsageError, match=r"different numbers of paths: delta 3, path 2"):
        selective_scan(**{**given, "path": given["path"][:2]}, backend="naive")


def test_a_state_of_another_shape_is_refused() -> None:
    given = inputs(1, ())
    with pytest.raises(UsageError, match=r"initial has a wrong shape; expected \(2, 20, 5\); got \(1, 20, 5\)"):
        selective_scan(**{**given, "initial": given["initial"][:1]}, backend="naive")


@pytest.mark.skipif(bool(available()["mamba-ssm"]), reason="mamba-ssm is not installed")
def test_mamba_ssm_begins_at_zero() -> None:
    given = {name: x.cuda() if x.dtype == torch.int64 else x.float().cuda() for name, x in inputs(1, ()).items()}
    with pytest.raises(NotReady, match="support an initial state"):
        selective_scan(**{**given, "segment_starts": None}, backend="mamba-ssm")
