"""The selective scan by mamba-ssm's kernels, with gathers around them for a path, as is common today.

Only the compiled module is imported: the package mamba_ssm imports libraries that are not needed here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.ops.causal_conv.torch_blocks import along_path
from zigma_bench.ops.selective_scan import SelectiveScanArguments


def mamba_ssm_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    """See `selective_scan`; rows are converted to u's dtype, which the kernels require."""
    a = arguments
    rows = [None if tensor is None else tensor.to(a.u.dtype) for tensor in (a.u, a.delta, a.B, a.C, a.z)]

    def in_order(*rows: Tensor | None) -> Tensor:
        u, delta, B, C, z = (None if x is None else x.transpose(1, 2).contiguous() for x in rows)
        y: Tensor = _MambaSsmSelectiveScan.apply(
            u, delta, a.A.float(), B, C, None if a.D is None else a.D.float(), z,
            None if a.delta_bias is None else a.delta_bias.float(), a.delta_softplus,
        )  # fmt: skip
        return y.transpose(1, 2)

    return along_path(in_order, rows, a.path)


class _MambaSsmSelectiveScan(torch.autograd.Function):
    """Channels before steps: u, delta, z [B, E, L], B and C [B, N, L]."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
    ) -> Tensor:
        import selective_scan_cuda

        B, C = B[:, None], C[:, None]  # one group
        out, states, *gated = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, bias, softplus)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, states, out)
        ctx.softplus = softplus
        y: Tensor = out if z is None else gated[0]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        import selective_scan_cuda

        u, delta, A, B, C, D, z, bias, states, out = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        of_u, of_delta, of_A, of_B, of_C, of_D, of_bias, *of_z = selective_scan_cuda.bwd(
            u, delta, A, B, C, D, z, bias, grad, states, None if z is None else out, None, ctx.softplus, False
        )
        return (
            of_u, of_delta, of_A, of_B.squeeze(1), of_C.squeeze(1), None if D is None else of_D,
            None if z is None else of_z[0], None if bias is None else of_bias, None,
        )  # fmt: skip
