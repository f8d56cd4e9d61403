"""Operators that PyTorch knows by name, so that a compiled network, autograd and the FLOP counter see through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "zigma_bench"


def define(
    name: str,
    schema: str,
    run: Callable[..., Any],
    shapes: Callable[..., Any],
    flops: Callable[..., int],
    *,
    keep: Callable[..., None] | None = None,
    differentiate: Callable[..., Any] | None = None,
    devices: tuple[str, ...] = ("cuda",),
) -> Any:
    """An operator on tensors of these devices, called with positional arguments alone.

    `shapes` gives empty outputs for its arguments; `flops` counts from the arguments with shapes in the place of
    tensors, one multiply-add being 2; `keep` and `differentiate` are what autograd calls, where it has a gradient.
    """
    full = f"{NAMESPACE}::{name}"
    torch.library.define(full, schema)
    torch.library.impl(full, devices)(run)
    torch.library.register_fake(full)(shapes)
    if differentiate is not None:
        torch.library.register_autograd(full, differentiate, setup_context=keep)

    def counted(*arguments: Any, out_shape: Any) -> int:
        return flops(*arguments)

    packet = getattr(getattr(torch.ops, NAMESPACE), name)
    register_flop_formula(packet)(counted)
    return packet.default
