"""The selective scan (S6): a linear recurrence over the path whose step size and projections depend on the token.

Source: Gu and Dao 2023 (Mamba), algorithm 2 and equation 2a; u, delta, A, B, C, D, z and h are the paper's letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zigma_bench.ops import arguments
from zigma_bench.ops.paths import count_paths, of_path, stacked

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "selective_scan"


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    path: Tensor | None = None,
    since: Tensor | None = None,
    initial: Tensor | None = None,
    backend: str,
) -> Tensor:
    """d = softplus(delta + delta_bias); h_t = exp(d A) h_{t-1} + d B u; out = (<C, h> + D u) silu(z).

    u, delta, z, out [B, L, E]; A [E, N], negative; B, C [B, L, N]; D, delta_bias [E]. Step i reads and writes row
    path[i]; path int64 [L] visits every row once, None is 0 .. L-1. since[i], int64 [L], is the step (not the row) at
    which the segment of step i began: there h is zero again; None is one segment. initial [B, E, N] is the state before
    the first step, None is zero; a segment that begins at step 0 sees it.

    Several paths in one call: any argument may have a leading dimension K, one slice a path ([K, B, L, E], [K, E, N],
    [K, L], ...); the others are shared. `out` is then the sum of the K outputs.

    Computed in float32 (float64 for float64 u); out has u's dtype. `backend` is a resolved name, see
    `zigma_bench.ops.backends.resolve`. Raises UsageError for wrong shapes, dtypes, paths or segments, UnknownName and
    NotReady for the backend.
    """
    given = {
        "u": (u, 3), "delta": (delta, 3), "A": (A, 2), "B": (B, 3), "C": (C, 3), "D": (D, 1), "z": (z, 3),
        "delta_bias": (delta_bias, 1), "path": (path, 1), "since": (since, 1), "initial": (initial, 3),
    }  # fmt: skip
    paths = count_paths(given, where=WHERE)
    each = [of_path(given, number) for number in range(paths or 1)]
    for one in each:
        _check(one, backend)
    if backend == "fused":
        from zigma_bench.ops.selective_scan import fused

        outs = list(fused.scan(**stacked(given, paths or 1), delta_softplus=delta_softplus).unbind(0))
    else:
        outs = [_along_one(one, delta_softplus, backend) for one in each]
    if len(outs) == 1:
        return outs[0]
    dtype = arguments.working_dtype(u)
    total = outs[0].to(dtype)
    for out in outs[1:]:
        total = total + out
    return total.to(u.dtype)


def _along_one(given: dict[str, Any], softplus: bool, backend: str) -> Tensor:
    """One path, by a backend that knows no more."""
    u = given["u"]
    if backend == "mamba-ssm":
        from zigma_bench.ops.selective_scan import mamba_ssm

        return mamba_ssm.scan(**given, delta_softplus=softplus)
    if backend == "cpu":
        from zigma_bench.ops.selective_scan.cpu import scan
    elif backend == "torch":
        from zigma_bench.ops.selective_scan.torch_blocks import scan
    else:
        from zigma_bench.ops.selective_scan.naive import scan
    dtype = arguments.working_dtype(u)
    working = {
        name: tensor.to(dtype) if tensor is not None and name not in ("path", "since") else tensor
        for name, tensor in given.items()
    }
    return scan(**working, delta_softplus=softplus).to(u.dtype)


def _check(given: dict[str, Any], backend: str) -> None:
    """Of one path."""
    u, A = given["u"], given["A"]
    arguments.check_sequence("u", u, where=WHERE)
    arguments.check_backend(backend, u.device.type, where=WHERE)
    batch, length, channels = u.shape
    states = A.shape[-1] if A.dim() and A.shape[-1] else 1
    expected: dict[str, tuple[int, ...]] = {
        "A": (channels, states), "delta": (batch, length, channels), "z": (batch, length, channels),
        "B": (batch, length, states), "C": (batch, length, states), "D": (channels,), "delta_bias": (channels,),
        "initial": (batch, channels, states),
    }  # fmt: skip
    for name, shape in expected.items():
        arguments.check_shape(name, given[name], shape, u, where=WHERE)
    arguments.check_path(given["path"], u, where=WHERE)
    arguments.check_since(given["since"], u, where=WHERE)
    if backend in arguments.SINGLE:
        numbers = [given[name] for name in ("u", *expected)]
        arguments.check_not_double(backend, numbers, where=WHERE)
