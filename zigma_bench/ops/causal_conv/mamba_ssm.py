"""The causal convolution by causal-conv1d's kernels, with gathers around them for a path, as is common today."""

from __future__ import annotations

from torch import Tensor

from zigma_bench.ops.causal_conv import CausalConvArguments
from zigma_bench.ops.causal_conv.torch_blocks import along_path


def mamba_ssm_causal_conv(arguments: CausalConvArguments) -> Tensor:
    """See `causal_conv`; y in x's dtype."""
    from causal_conv1d import causal_conv1d_fn

    a = arguments

    def in_order(*rows: Tensor | None) -> Tensor:
        (x,) = rows
        assert x is not None
        y: Tensor = causal_conv1d_fn(
            x.transpose(1, 2), a.weight.to(x.dtype), None if a.bias is None else a.bias.to(x.dtype),
            activation="silu" if a.silu else None,
        )  # fmt: skip
        return y.transpose(1, 2)

    return along_path(in_order, [a.x], a.path)
