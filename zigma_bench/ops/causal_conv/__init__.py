"""The depthwise causal convolution along a path, before the selective scan of a Mamba block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from zigma_bench.errors import UsageError
from zigma_bench.ops.arguments import (
    OperatorArguments,
    check_path,
    check_segment_starts,
    check_sequence,
    check_shape,
    compute_paths,
)

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["silu", "none"]


@dataclass(frozen=True)
class CausalConvArguments(OperatorArguments):
    """The arguments of `causal_conv`, which describes them; `silu`: the activation."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    path: Tensor | None
    segment_starts: Tensor | None
    silu: bool

    OPERATOR = "causal_conv"
    DIMENSIONS: ClassVar[Mapping[str, int]] = {"x": 3, "weight": 2, "bias": 1, "path": 1, "segment_starts": 1}
    SWITCHES = ("silu",)

    def check(self) -> None:
        """Raise UsageError for wrong shapes, dtypes, devices, paths or segments of one path."""
        x, weight = self.x, self.weight
        check_sequence("x", x, where=self.OPERATOR)
        width = weight.shape[-1] if weight.dim() and weight.shape[-1] else 1
        check_shape("weight", weight, (x.shape[2], width), x, where=self.OPERATOR)
        check_shape("bias", self.bias, (x.shape[2],), x, where=self.OPERATOR)
        check_path(self.path, x, where=self.OPERATOR)
        check_segment_starts(self.segment_starts, x, where=self.OPERATOR)


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    path: Tensor | None = None,
    segment_starts: Tensor | None = None,
    activation: Activation = "silu",
    backend: str,
) -> Tensor:
    """y[path[t]] = act(bias + sum_k weight[:, k] x[path[t - W + 1 + k]]); rows before the start are zero.

    Args:
        x: [B, L, E], like y.
        weight: [E, W]; its last column multiplies the current step.
        bias: [E].
        path: int64 [L]; it visits every row once. None: 0 .. L-1.
        segment_starts: int64 [L]; the step (not the row) at which the segment of step t starts. Rows before it are zero
            too. None: one segment.
        backend: the name of a backend, from `zigma_bench.ops.backends.resolve`.

    Several paths in one call: any argument may have a leading dimension K, with one slice per path; y is then
    [K, B, L, E].

    Computed in float32 (float64 for float64 x); y has x's dtype. Raises UsageError for wrong shapes, dtypes, paths,
    segments or activations, UnknownName for the backend, NotReady if the backend doesn't support the device or
    arguments.
    """
    if activation not in ("silu", "none"):
        raise UsageError("unknown activation", where="causal_conv", expected="silu or none", got=activation)
    arguments = CausalConvArguments(x, weight, bias, path, segment_starts, activation == "silu")
    outputs = compute_paths(arguments, x, backend)
    if arguments.count_paths() is None:
        return outputs[0]
    import torch

    return outputs if isinstance(outputs, torch.Tensor) else torch.stack(list(outputs))
