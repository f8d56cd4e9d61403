"""The modulated norm as its definition reads, which PyTorch differentiates and compiles."""

from __future__ import annotations

import torch
from torch import Tensor


def norm(
    r: Tensor, x: Tensor | None, weight: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `modulated_norm`; all tensors have one dtype, in which it computes."""
    r = r if x is None else r + x
    n = torch.nn.functional.rms_norm(r, r.shape[-1:], weight, eps)
    return r, n, n * (1 + scale[:, None]) + shift[:, None]
