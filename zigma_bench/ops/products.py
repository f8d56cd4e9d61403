"""Matrix products with float32 sums: the gradients of weights, from rows of 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def multiply_matrices(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a b in `dtype`, for a [I, J] or [K, I, J] and b alike. On an NVIDIA GPU the sums are rounded once, to `dtype`."""
    if a.dtype == dtype:
        return a @ b
    if not a.is_cuda or torch.version.hip is not None or dtype != torch.float32:
        return (a @ b).to(dtype)
    found: Tensor = (torch.mm if a.dim() == 2 else torch.bmm)(a, b, out_dtype=dtype)
    return found
