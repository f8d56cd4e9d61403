"""The selective scan (S6): a linear recurrence over the path whose step size and projections depend on the token.

Source: Gu and Dao 2023 (Mamba), algorithm 2 and equation 2a; u, delta, A, B, C, D, z and h are the paper's letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zigma_bench.ops import arguments

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
    backend: str,
) -> Tensor:
    """d = softplus(delta + delta_bias); h_t = exp(d A) h_{t-1} + d B u; out = (<C, h> + D u) silu(z).

    u, delta, z, out [B, L, E]; A [E, N], negative; B, C [B, L, N]; D, delta_bias [E]. Step i reads and writes row
    path[i]; path int64 [L] visits every row once, None is 0 .. L-1. since[i], int64 [L], is the step (not the row) at
    which the segment of step i began: there h is zero again; None is one segment. Computed in float32 (float64 for
    float64 u); out has u's dtype. `backend` is a resolved name, see `zigma_bench.ops.backends.resolve`.
    Raises UsageError for wrong shapes, dtypes, paths or segments, UnknownName and NotReady for the backend.
    """
    arguments.check_sequence("u", u, where=WHERE)
    arguments.check_backend(backend, u.device.type, where=WHERE)
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    arguments.check_path(path, u, where=WHERE)
    arguments.check_since(since, u, where=WHERE)
    if backend == "cpu":
        arguments.check_not_double(backend, [u, delta, A, B, C, D, z, delta_bias], where=WHERE)
        from zigma_bench.ops.selective_scan.cpu import scan
    elif backend == "torch":
        from zigma_bench.ops.selective_scan.torch_blocks import scan
    else:
        from zigma_bench.ops.selective_scan.naive import scan
    if backend in ("fused", "triton", "mamba-ssm"):  # kernels that read rows in their own dtype
        arguments.check_not_double(backend, [u, delta, A, B, C, D, z, delta_bias], where=WHERE)
        if backend == "fused":
            from zigma_bench.ops.selective_scan import fused as kernels
        elif backend == "triton":
            from zigma_bench.ops.selective_scan import triton_scan as kernels  # type: ignore[no-redef]
        else:
            from zigma_bench.ops.selective_scan import mamba_ssm as kernels  # type: ignore[no-redef]
        return kernels.scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, path, since)
    dtype = arguments.working_dtype(u)
    u_, delta_, A_, B_, C_ = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    D_, z_, bias_ = (None if tensor is None else tensor.to(dtype) for tensor in (D, z, delta_bias))
    return scan(u_, delta_, A_, B_, C_, D_, z_, bias_, delta_softplus, path, since).to(u.dtype)


def _check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    batch, length, channels = u.shape
    states = A.shape[-1] if A.dim() and A.shape[-1] else 1
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("A", A, (channels, states)),
        ("delta", delta, (batch, length, channels)),
        ("z", z, (batch, length, channels)),
        ("B", B, (batch, length, states)),
        ("C", C, (batch, length, states)),
        ("D", D, (channels,)),
        ("delta_bias", delta_bias, (channels,)),
    ]
    for name, tensor, shape in expected:
        arguments.check_shape(name, tensor, shape, u, where=WHERE)
