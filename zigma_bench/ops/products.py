"""Matrix products that keep what they add up: the gradients of weights, from rows of 16 bits, in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a [I, J] or [K, I, J] times b, alike, in `dtype`: on an NVIDIA card the sums are rounded once, to it."""
    if a.dtype == dtype:
        return a @ b
    if not a.is_cuda or torch.version.hip is not None or dtype != torch.float32:
        return (a @ b).to(dtype)
    found: Tensor = (torch.mm if a.dim() == 2 else torch.bmm)(a, b, out_dtype=dtype)
    return found
