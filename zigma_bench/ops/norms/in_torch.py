"""The norms in PyTorch's operators, which autograd differentiates: the reference for the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from zigma_bench.ops.norms import ModulatedNormArguments, ResidualNormArguments


def torch_modulated_norm(arguments: ModulatedNormArguments) -> tuple[Tensor, Tensor, Tensor]:
    """See `modulated_norm`; computes in the dtype of the tensors, which must be the same for all."""
    r = arguments.r if arguments.x is None else arguments.r + arguments.x
    n = torch.nn.functional.rms_norm(r, r.shape[-1:], arguments.weight, arguments.eps)
    return r, n, n * (1 + arguments.scale[:, None]) + arguments.shift[:, None]


def torch_residual_norm(arguments: ResidualNormArguments) -> tuple[Tensor, Tensor]:
    """See `residual_norm`; computes in the dtype of r."""
    r = _add_to_residual(arguments)
    n = torch.nn.functional.rms_norm(r, r.shape[-1:], arguments.weight.to(r.dtype), arguments.eps)
    m = n * (1 + arguments.scale[:, None].to(r.dtype)) + arguments.shift[:, None].to(r.dtype)
    m, projection = m.to(arguments.dtype), arguments.projection
    return r, m if projection is None else m @ projection.to(arguments.dtype).t()


def _add_to_residual(arguments: ResidualNormArguments) -> Tensor:
    """r' = r + factor (norm(r) skip + gate y)."""
    r, y, gate, skip, factor = arguments.r, arguments.y, arguments.gate, arguments.skip, arguments.factor
    if y is None:
        return r
    assert gate is not None
    x = gate[:, None].to(r.dtype) * y.to(r.dtype)
    if skip is not None:
        x = x + torch.nn.functional.rms_norm(r, r.shape[-1:], skip.to(r.dtype), arguments.eps)
    return r + (x if factor is None else factor[:, None, None] * x)
