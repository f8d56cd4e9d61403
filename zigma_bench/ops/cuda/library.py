"""Operators that PyTorch knows by name, so that a compiled network, autograd and the FLOP counter see through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "zigma_bench"


def define(
    name: str, schema: str, run: Callable[..., Any], shapes: Callable[..., Any], flops: Callable[..., int]
) -> Any:
    """An operator on CUDA tensors, called with positional arguments alone.

    `shapes` gives empty outputs for its arguments; `flops` counts from the arguments with shapes in the place of
    tensors, one multiply-add being 2.
    """
    defined = torch.library.custom_op(f"{NAMESPACE}::{name}", run, mutates_args=(), device_types="cuda", schema=schema)
    defined.register_fake(shapes)

    def counted(*arguments: Any, out_shape: Any) -> int:
        return flops(*arguments)

    register_flop_formula(getattr(getattr(torch.ops, NAMESPACE), name))(counted)
    return defined
