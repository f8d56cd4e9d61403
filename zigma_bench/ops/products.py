"""Matrix products with float32 sums, for the gradients of weights from 16-bit rows."""

from __future__ import annotations

import torch
from torch import Tensor


def multiply_matrices(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of a [I, J] and b, or of [K, I, J] each, in `dtype`. On an NVIDIA GPU, sums are rounded only once."""
    if a.dtype == dtype:
        return a @ b
    if not a.is_cuda or torch.version.hip is not None or dtype != torch.float32:
        return (a @ b).to(dtype)
    found: Tensor = (torch.mm if a.dim() == 2 else torch.bmm)(a, b, out_dtype=dtype)
    return found
