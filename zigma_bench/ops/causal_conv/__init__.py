"""The depthwise causal convolution over the path that stands before the selective scan in a Mamba block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zigma_bench.errors import UsageError
from zigma_bench.ops import arguments

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "causal_conv"
Activation = Literal["silu", "none"]


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    path: Tensor | None = None,
    since: Tensor | None = None,
    activation: Activation = "silu",
    backend: str,
) -> Tensor:
    """y[path[t]] = act(bias + sum_k weight[:, k] x[path[t - W + 1 + k]]), rows before the start are zero.

    x, y [B, L, E]; weight [E, W], whose last column multiplies the current step; bias [E]. Path int64 [L] visits every
    row once, None is 0 .. L-1. since[t], int64 [L], is the step (not the row) at which the segment of step t began:
    what lies before it is zero too; None is one segment. Computed in float32 (float64 for float64 x); y has x's dtype.
    `backend` is a resolved name, see `zigma_bench.ops.backends.resolve`.
    Raises UsageError for wrong shapes, dtypes, paths, segments or activations, UnknownName and NotReady for the
    backend.
    """
    arguments.check_sequence("x", x, where=WHERE)
    arguments.check_backend(backend, x.device.type, where=WHERE)
    if activation not in ("silu", "none"):
        raise UsageError("no such activation", where=WHERE, expected="silu or none", got=activation)
    width = weight.shape[-1] if weight.dim() and weight.shape[-1] else 1
    arguments.check_shape("weight", weight, (x.shape[2], width), x, where=WHERE)
    arguments.check_shape("bias", bias, (x.shape[2],), x, where=WHERE)
    arguments.check_path(path, x, where=WHERE)
    arguments.check_since(since, x, where=WHERE)
    if backend == "cpu":
        arguments.check_not_double(backend, [x, weight, bias], where=WHERE)
        from zigma_bench.ops.causal_conv.cpu import conv
    elif backend == "torch":
        from zigma_bench.ops.causal_conv.torch_blocks import conv
    else:
        from zigma_bench.ops.causal_conv.naive import conv
    if backend in ("fused", "triton", "mamba-ssm"):  # kernels that read rows in their own dtype
        arguments.check_not_double(backend, [x, weight, bias], where=WHERE)
        if backend == "fused":
            from zigma_bench.ops.causal_conv import fused as kernels
        elif backend == "triton":
            from zigma_bench.ops.causal_conv import triton_conv as kernels  # type: ignore[no-redef]
        else:
            from zigma_bench.ops.causal_conv import mamba_ssm as kernels  # type: ignore[no-redef]
        return kernels.conv(x, weight, bias, path, since, activation == "silu")
    dtype = arguments.working_dtype(x)
    bias = None if bias is None else bias.to(dtype)
    return conv(x.to(dtype), weight.to(dtype), bias, path, since, activation == "silu").to(x.dtype)
