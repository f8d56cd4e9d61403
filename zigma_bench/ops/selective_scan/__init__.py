"""The selective scan (S6): a linear recurrence along a path whose step size and projections depend on the token.

Source: Gu and Dao 2023 (Mamba), algorithm 2 and equation 2a; u, delta, A, B, C, D, z and h are the paper's letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zigma_bench.ops.arguments import (
    OperatorArguments,
    check_path,
    check_segment_starts,
    check_sequence,
    check_shape,
    compute_paths,
    working_dtype,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SelectiveScanArguments(OperatorArguments):
    """The arguments of `selective_scan`, which describes them."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    path: Tensor | None
    segment_starts: Tensor | None
    initial: Tensor | None

    OPERATOR = "selective_scan"
    DIMENSIONS: ClassVar[Mapping[str, int]] = {
        "u": 3, "delta": 3, "A": 2, "B": 3, "C": 3, "D": 1, "z": 3, "delta_bias": 1, "path": 1, "segment_starts": 1,
        "initial": 3,
    }  # fmt: skip
    SWITCHES = ("delta_softplus",)

    def check(self) -> None:
        """Raise UsageError for wrong shapes, dtypes, devices, paths or segments of one path."""
        check_sequence("u", self.u, where=self.OPERATOR)
        batch, length, channels = self.u.shape
        states = self.A.shape[-1] if self.A.dim() and self.A.shape[-1] else 1
        expected: dict[str, tuple[int, ...]] = {
            "A": (channels, states), "delta": (batch, length, channels), "z": (batch, length, channels),
            "B": (batch, length, states), "C": (batch, length, states), "D": (channels,), "delta_bias": (channels,),
            "initial": (batch, channels, states),
        }  # fmt: skip
        for name, shape in expected.items():
            check_shape(name, getattr(self, name), shape, self.u, where=self.OPERATOR)
        check_path(self.path, self.u, where=self.OPERATOR)
        check_segment_starts(self.segment_starts, self.u, where=self.OPERATOR)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Paths (if u has a dimension for them), batch, length, channels, states."""
        return (*self.u.shape, self.A.shape[-1])

    def needs_grad(self) -> bool:
        """Whether autograd will need a gradient."""
        import torch

        tensors = self.numbers().values()
        return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


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
    segment_starts: Tensor | None = None,
    initial: Tensor | None = None,
    backend: str,
) -> Tensor:
    """d = softplus(delta + delta_bias); h_t = exp(d A) h_{t-1} + d B u; out = (<C, h> + D u) silu(z).

    Args:
        u, delta, z: [B, L, E], like the output.
        A: [E, N], negative.
        B, C: [B, L, N].
        D, delta_bias: [E].
        path: int64 [L]; step i reads and writes row path[i]. It visits every row once. None: 0 .. L-1.
        segment_starts: int64 [L]; the step (not the row) at which the segment of step i starts. The state there is
            zero. None: one segment.
        initial: [B, E, N], the state before the first step, from which the first segment starts. None: zero.
        backend: the name of a backend, from `zigma_bench.ops.backends.resolve`.

    Several paths in one call: any argument may have a leading dimension K, with one slice per path ([K, B, L, E],
    [K, E, N], [K, L], ...); the others are shared. The result is then the sum of the K outputs.

    Computed in float32 (float64 for float64 u); the output has u's dtype. Raises UsageError for wrong shapes, dtypes,
    paths or segments, UnknownName for the backend, NotReady if the backend doesn't support the device or arguments.
    """
    arguments = SelectiveScanArguments(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, path, segment_starts, initial
    )
    outputs = compute_paths(arguments, u, backend)
    if len(outputs) == 1:
        return outputs[0]
    dtype = working_dtype(u)
    total = outputs[0].to(dtype)
    for out in outputs[1:]:
        total = total + out
    return total.to(u.dtype)
