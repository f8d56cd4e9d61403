"""State-space duality (SSD): a selective scan with one decay per head, which can be computed by matrix products.

Source: Dao and Gu 2024 (Mamba-2, arXiv 2405.21060), section 6 and listing 1; x, dt, A, B, C, D and h are the paper's
letters. It is the selective scan with A the same for all channels and states of a head, and dt for all its channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zigma_bench.errors import UsageError
from zigma_bench.ops.arguments import OperatorArguments, check_path, check_segment_starts, check_sequence, check_shape
from zigma_bench.ops.backends import backend_named, implementation_of

if TYPE_CHECKING:
    from torch import Tensor, dtype


@dataclass(frozen=True)
class SsdArguments(OperatorArguments):
    """The arguments of `ssd`, which describes them; one path."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool
    path: Tensor | None
    segment_starts: Tensor | None

    OPERATOR = "ssd"
    DIMENSIONS: ClassVar[Mapping[str, int]] = {
        "x": 3,
        "dt": 3,
        "A": 1,
        "B": 4,
        "C": 4,
        "D": 1,
        "dt_bias": 1,
        "path": 1,
        "segment_starts": 1,
    }
    SWITCHES = ("dt_softplus",)

    def check(self) -> None:
        """Raise UsageError for wrong shapes, dtypes, devices, paths or segments."""
        check_sequence("x", self.x, where=self.OPERATOR)
        for name, shape in self._expected_shapes().items():
            check_shape(name, getattr(self, name), shape, self.x, where=self.OPERATOR)
        check_path(self.path, self.x, where=self.OPERATOR)
        check_segment_starts(self.segment_starts, self.x, where=self.OPERATOR)

    def _expected_shapes(self) -> dict[str, tuple[int, ...]]:
        batch, length, channels = self.x.shape
        heads = self.A.numel() or 1
        if channels % heads:
            raise UsageError(
                "the heads don't divide the channels",
                where=self.OPERATOR,
                expected=f"a divisor of {channels}",
                got=heads,
            )
        if self.B.dim() != 4 or 0 in self.B.shape:
            raise UsageError(
                "B has a wrong shape",
                where=self.OPERATOR,
                expected="[B, L, G, N], all at least 1",
                got=tuple(self.B.shape),
            )
        groups, states = self.B.shape[2:]
        if heads % groups:
            raise UsageError(
                "the groups don't divide the heads",
                where=self.OPERATOR,
                expected=f"a divisor of {heads}",
                got=groups,
            )
        projection = (batch, length, groups, states)
        return {
            "A": (heads,), "dt": (batch, length, heads), "B": projection, "C": projection, "D": (heads,),
            "dt_bias": (heads,),
        }  # fmt: skip


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
    segment_starts: Tensor | None = None,
    backend: str,
) -> Tensor:
    """d = softplus(dt + dt_bias); h_t = exp(d A) h_{t-1} + d B x^T; y = C h + D x, for each head.

    Args:
        x: [B, L, E], like y; each of the H heads is E / H adjacent channels.
        dt: [B, L, H].
        A: [H], negative.
        B, C: [B, L, G, N]; each of the G groups is shared by H / G adjacent heads.
        D, dt_bias: [H].
        path: int64 [L]; step i reads and writes row path[i]. It visits every row once. None: 0 .. L-1.
        segment_starts: int64 [L]; the step (not the row) at which the segment of step i starts. The state there is
            zero. None: one segment.
        backend: the name of a backend, from `zigma_bench.ops.backends.resolve`. `naive` is a loop over time; the
            others compute chunks of steps by matrix products; `mamba-ssm` has no SSD.

    y has x's dtype. All backends compute in float32 (float64 for float64 x), but all except `naive` multiply bfloat16
    x, B and C as bfloat16. An infinity or NaN doesn't leave its segment; with backends other than `naive` it makes the
    whole head NaN there (without segments, that head of the sample). Raises UsageError for wrong shapes,
    dtypes, paths or segments, UnknownName for the backend, NotReady if the backend doesn't support the device.
    """
    arguments = SsdArguments(x, dt, A, B, C, D, dt_bias, dt_softplus, path, segment_starts)
    chosen = backend_named(backend, where="ssd")
    implementation = implementation_of("ssd", chosen, x.device.type)
    arguments.check()
    chosen.check_arguments("ssd", arguments)
    y: Tensor = implementation.apply(arguments)
    return y


def in_wide_dtype(arguments: SsdArguments, wide: dtype) -> SsdArguments:
    """The arguments with dt, A, D and dt_bias in the dtype of decays, sums and states; x, B and C as they are."""
    a = arguments
    D, dt_bias = (None if tensor is None else tensor.to(wide) for tensor in (a.D, a.dt_bias))
    return SsdArguments(a.x, a.dt.to(wide), a.A.to(wide), a.B, a.C, D, dt_bias, a.dt_softplus, a.path, a.segment_starts)
