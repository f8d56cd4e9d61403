"""The selective scan by mamba-ssm's kernels, with gathers around them for a path: what a user runs today.

Only the compiled module is imported: the package mamba_ssm pulls in libraries that are not needed here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zigma_bench.errors import NotReady
from zigma_bench.ops.arguments import check_no_segments
from zigma_bench.ops.causal_conv.torch_blocks import along_path


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    path: Tensor | None,
    since: Tensor | None,
    initial: Tensor | None,
) -> Tensor:
    """See `selective_scan`; rows are taken in u's dtype, as the kernels ask."""
    check_no_segments("mamba-ssm", since, where="selective_scan")
    if initial is not None:
        raise NotReady(
            "the kernels of the backend 'mamba-ssm' begin with a state of zero",
            where="selective_scan",
            do="take the backend 'fused' (or 'torch')",
        )
    rows = [None if tensor is None else tensor.to(u.dtype) for tensor in (u, delta, B, C, z)]

    def in_order(*rows: Tensor | None) -> Tensor:
        u_, delta_, B_, C_, z_ = (None if x is None else x.transpose(1, 2).contiguous() for x in rows)
        y: Tensor = _Scan.apply(
            u_, delta_, A.float(), B_, C_, None if D is None else D.float(), z_,
            None if delta_bias is None else delta_bias.float(), delta_softplus,
        )  # fmt: skip
        return y.transpose(1, 2)

    return along_path(in_order, rows, path)


class _Scan(torch.autograd.Function):
    """Rows are channels here: u, delta, z [B, E, L], B and C [B, N, L]."""

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
