"""The residual norm as its definition reads, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def norm(
    r: Tensor, y: Tensor | None, gate: Tensor | None, before: Tensor | None, kept: Tensor | None, weight: Tensor,
    shift: Tensor, scale: Tensor, projection: Tensor | None, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `residual_norm`; it computes in the dtype of r."""
    if y is not None:
        assert gate is not None
        x = gate[:, None].to(r.dtype) * y.to(r.dtype)
        if before is not None:
            x = x + torch.nn.functional.rms_norm(r, r.shape[-1:], before.to(r.dtype), eps)
        r = r + (x if kept is None else kept[:, None, None] * x)
    n = torch.nn.functional.rms_norm(r, r.shape[-1:], weight.to(r.dtype), eps)
    m = (n * (1 + scale[:, None].to(r.dtype)) + shift[:, None].to(r.dtype)).to(dtype)
    return r, m if projection is None else m @ projection.to(dtype).t()
