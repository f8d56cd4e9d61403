"""Operators registered with PyTorch, so that torch.compile, autograd and the FLOP counter handle them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "zigma_bench"


def define_operator(
    name: str,
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    count_flops: Callable[..., int],
    *,
    save: Callable[..., None] | None = None,
    differentiate: Callable[..., Any] | None = None,
    devices: tuple[str, ...] = ("cuda",),
) -> Any:
    """Register an operator for tensors on these devices; its arguments are positional.

    `fake` returns empty outputs for its arguments. `count_flops` counts from the arguments, with shapes instead of
    tensors; one multiply-add is 2. Autograd calls `save` and `differentiate`, if the operator has a gradient.
    """
    full = f"{NAMESPACE}::{name}"
    torch.library.define(full, schema)
    torch.library.impl(full, devices)(run)
    torch.library.register_fake(full)(fake)
    if differentiate is not None:
        torch.library.register_autograd(full, differentiate, setup_context=save)

    def count(*arguments: Any, out_shape: Any) -> int:
        return count_flops(*arguments)

    packet = getattr(getattr(torch.ops, NAMESPACE), name)
    register_flop_formula(packet)(count)
    return packet.default
