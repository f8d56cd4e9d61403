"""The causal convolution by causal-conv1d's kernels, with gathers around them for a path: what a user runs today."""

from __future__ import annotations

from torch import Tensor

from zigma_bench.errors import NotReady
from zigma_bench.ops.arguments import check_no_segments
from zigma_bench.ops.causal_conv.torch_blocks import along_path

WIDTHS = (2, 3, 4)


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, path: Tensor | None, since: Tensor | None, silu: bool
) -> Tensor:
    """See `causal_conv`; y in x's dtype."""
    from causal_conv1d import causal_conv1d_fn

    check_no_segments("mamba-ssm", since, where="causal_conv")
    if weight.shape[1] not in WIDTHS:
        raise NotReady(
            "causal-conv1d has no kernel of this width", expected="2, 3 or 4", got=weight.shape[1],
            do="take the backend 'fused'",
        )  # fmt: skip

    def in_order(*rows: Tensor | None) -> Tensor:
        (x_,) = rows
        assert x_ is not None
        y: Tensor = causal_conv1d_fn(
            x_.transpose(1, 2), weight.to(x_.dtype), None if bias is None else bias.to(x_.dtype),
            activation="silu" if silu else None,
        )  # fmt: skip
        return y.transpose(1, 2)

    return along_path(in_order, [x], path)
