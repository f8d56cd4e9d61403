"""Matrix products with float32 sums, for the gradients of weights from 16-bit rows; the dtype of products."""

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


def cast_as_products(x: Tensor) -> Tensor:
    """The tensor in the dtype in which autocast computes matrix products; unchanged without autocast."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
