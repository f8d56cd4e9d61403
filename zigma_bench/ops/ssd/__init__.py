"""State-space duality (SSD): a selective scan whose decay is one number a head, so that matrix products compute it.

Source: Dao and Gu 2024 (Mamba-2, arXiv 2405.21060), section 6 and listing 1; x, dt, A, B, C, D and h are the paper's
letters. It is the selective scan with A the same for all channels and states of a head, and dt for its channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.ops import arguments

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "ssd"
# Which form each backend runs. Chunks are matrix products, which torch's libraries do well on either device: there is
# no C++ and no CUDA of this operator. A backend that stands for a library's kernels (mamba-ssm) is left out, as these
# would not be that library's.
FORMS = {"naive": "loop", "torch": "chunks", "cpu": "chunks", "fused": "chunks", "triton": "chunks"}


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = True,
    path: Tensor | None = None,
    since: Tensor | None = None,
    backend: str,
) -> Tensor:
    """d = softplus(dt + dt_bias); h_t = exp(d A) h_{t-1} + d B x^T; y = C h + D x, for each head.

    x, y [B, L, E], of which E / H channels side by side are a head; dt [B, L, H]; A [H], negative; B, C [B, L, G, N],
    each of the G groups shared by H / G heads side by side; D, dt_bias [H]. Step i reads and writes row path[i]; path
    int64 [L] visits every row once, None is 0 .. L-1. since[i], int64 [L], is the step (not the row) at which the
    segment of step i began: there h is zero again; None is one segment. y has x's dtype. The backend naive computes in
    float32 (float64 for float64 x); the others so too, but for the matrix products of bfloat16 x, B and C, whose
    factors are bfloat16. What isn't finite stays in its segment; with others than naive it spoils a whole head there,
    or without `since` that head of the sample. `backend` is a resolved name, see `zigma_bench.ops.backends.resolve`;
    `FORMS` says what it runs.
    Raises UsageError for wrong shapes, dtypes, paths or segments, UnknownName and NotReady for the backend.
    """
    arguments.check_sequence("x", x, where=WHERE)
    arguments.check_backend(backend, x.device.type, where=WHERE)
    _check_shapes(x, dt, A, B, C, D, dt_bias)
    arguments.check_path(path, x, where=WHERE)
    arguments.check_since(since, x, where=WHERE)
    if backend not in FORMS:
        raise NotReady(
            "this backend has no SSD",
            where=WHERE,
            expected=f"one of {', '.join(FORMS)}",
            got=backend,
            do="take the backend 'torch' or 'auto'",
        )
    if FORMS[backend] == "loop":
        from zigma_bench.ops.ssd.naive import scan
    else:
        from zigma_bench.ops.ssd.chunks import scan
    dtype = arguments.working_dtype(x)
    dt, A = dt.to(dtype), A.to(dtype)
    D, dt_bias = (None if tensor is None else tensor.to(dtype) for tensor in (D, dt_bias))
    return scan(x, dt, A, B, C, D, dt_bias, dt_softplus, path, since)


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, dt_bias: Tensor | None
) -> None:
    batch, length, channels = x.shape
    heads = A.numel() or 1
    if channels % heads:
        raise UsageError(
            "the heads don't divide the channels", where=WHERE, expected=f"a divisor of {channels}", got=heads
        )
    if B.dim() != 4 or 0 in B.shape:
        raise UsageError(
            "B has a wrong shape", where=WHERE, expected="[B, L, G, N], none of them 0", got=tuple(B.shape)
        )
    groups, states = B.shape[2:]
    if heads % groups:
        raise UsageError("the groups don't divide the heads", where=WHERE, expected=f"a divisor of {heads}", got=groups)
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("A", A, (heads,)),
        ("dt", dt, (batch, length, heads)),
        ("B", B, (batch, length, groups, states)),
        ("C", C, (batch, length, groups, states)),
        ("D", D, (heads,)),
        ("dt_bias", dt_bias, (heads,)),
    ]
    for name, tensor, shape in expected:
        arguments.check_shape(name, tensor, shape, x, where=WHERE)
