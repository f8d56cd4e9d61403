"""The depthwise causal convolution over the path that stands before the selective scan in a Mamba block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from zigma_bench.errors import UsageError
from zigma_bench.ops import arguments
from zigma_bench.ops.paths import count_paths, of_path, stacked

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
    what lies before it is zero too; None is one segment.

    Several paths in one call: any argument may have a leading dimension K, one slice a path; y is then [K, B, L, E].

    Computed in float32 (float64 for float64 x); y has x's dtype. `backend` is a resolved name, see
    `zigma_bench.ops.backends.resolve`. Raises UsageError for wrong shapes, dtypes, paths, segments or activations,
    UnknownName and NotReady for the backend.
    """
    if activation not in ("silu", "none"):
        raise UsageError("no such activation", where=WHERE, expected="silu or none", got=activation)
    given = {"x": (x, 3), "weight": (weight, 2), "bias": (bias, 1), "path": (path, 1), "since": (since, 1)}
    paths = count_paths(given, where=WHERE)
    each = [of_path(given, number) for number in range(paths or 1)]
    for one in each:
        _check(one, backend)
    if backend == "fused":
        from zigma_bench.ops.causal_conv import fused

        y = fused.conv(**stacked(given, paths or 1), silu=activation == "silu")
        return y if paths else y[0]
    ys = [_along_one(one, activation == "silu", backend) for one in each]
    if paths is None:
        return ys[0]
    import torch

    return torch.stack(ys)


def _along_one(given: dict[str, Any], silu: bool, backend: str) -> Tensor:
    """One path, by a backend that knows no more."""
    x, weight, bias = given["x"], given["weight"], given["bias"]
    if backend == "mamba-ssm":
        from zigma_bench.ops.causal_conv import mamba_ssm

        return mamba_ssm.conv(**given, silu=silu)
    if backend == "cpu":
        from zigma_bench.ops.causal_conv.cpu import conv
    elif backend == "torch":
        from zigma_bench.ops.causal_conv.torch_blocks import conv
    else:
        from zigma_bench.ops.causal_conv.naive import conv
    dtype = arguments.working_dtype(x)
    bias = None if bias is None else bias.to(dtype)
    return conv(x.to(dtype), weight.to(dtype), bias, given["path"], given["since"], silu).to(x.dtype)


def _check(given: dict[str, Any], backend: str) -> None:
    """Of one path."""
    x, weight, bias = given["x"], given["weight"], given["bias"]
    arguments.check_sequence("x", x, where=WHERE)
    arguments.check_backend(backend, x.device.type, where=WHERE)
    width = weight.shape[-1] if weight.dim() and weight.shape[-1] else 1
    arguments.check_shape("weight", weight, (x.shape[2], width), x, where=WHERE)
    arguments.check_shape("bias", bias, (x.shape[2],), x, where=WHERE)
    arguments.check_path(given["path"], x, where=WHERE)
    arguments.check_since(given["since"], x, where=WHERE)
    if backend in arguments.SINGLE:
        arguments.check_not_double(backend, [x, weight, bias], where=WHERE)
