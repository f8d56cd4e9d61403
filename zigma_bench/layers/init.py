"""Initialize weights by name: the random numbers of a parameter depend only on the seed and the parameter's name.

Two networks with a common layer therefore have the same initial weights in it, whatever else they contain. A module
whose initialization differs from PyTorch's defines `init_parameters(draw)`, where `draw(name)` returns the generator of
a parameter. It must fill all of its own parameters. A network that initializes all of its weights itself defines a
method `draw_weights(seed)` (backbones/module.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zigma_bench.errors import UsageError

Draw = Callable[[str], torch.Generator]


def initialise_network(network: nn.Module, seed: int) -> None:
    """Initialize every parameter in place, in float32 on the CPU. The values are the same on every machine.

    Raises UsageError if a module has parameters of its own and no rule to initialize them.
    """
    draw_weights: Any = getattr(network, "draw_weights", None)
    if draw_weights is not None:
        draw_weights(seed)
        return
    for prefix, module in network.named_modules():
        draw, own = _draw_below(prefix, seed), list(module.named_parameters(recurse=False))
        if hasattr(module, "init_parameters"):
            module.init_parameters(draw)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            _linear(module, draw)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm | nn.GroupNorm):
            for name, parameter in own:
                nn.init.constant_(parameter, float(name == "weight"))
        elif own:
            raise UsageError(
                f"the module {prefix!r} ({type(module).__name__}) has parameters and no initialization",
                do="add a method init_parameters(draw) to it",
            )


def fill_named_parameters(network: nn.Module, seed: int) -> None:
    """Fill the parameters of those modules that have `init_parameters`, and no others."""
    for prefix, module in network.named_modules():
        if hasattr(module, "init_parameters"):
            module.init_parameters(_draw_below(prefix, seed))


def _draw_below(prefix: str, seed: int) -> Draw:
    """`draw(name)` of the module with this name."""
    return lambda name: named_generator(seed, f"{prefix}.{name}" if prefix else name)


def named_generator(seed: int, name: str) -> torch.Generator:
    """The CPU generator of one name and seed."""
    value = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big", signed=False)
    return torch.Generator().manual_seed(value)


@torch.no_grad()
def uniform_(tensor: torch.Tensor, bound: float, draw: torch.Generator) -> None:
    tensor.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=draw))


@torch.no_grad()
def normal_(tensor: torch.Tensor, sd: float, draw: torch.Generator) -> None:
    tensor.copy_(torch.empty(tensor.shape).normal_(0.0, sd, generator=draw))


@torch.no_grad()
def xavier_(weight: torch.Tensor, draw: torch.Generator) -> None:
    """Uniform with bound sqrt(6 / (fan_in + fan_out)) over the flattened weight [out, in]."""
    out, inner = weight.shape[0], weight[0].numel()
    uniform_(weight, math.sqrt(6 / (out + inner)), draw)


def _linear(module: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, draw: Draw) -> None:
    """PyTorch's default weight (uniform with bound 1/sqrt(fan_in)) and a zero bias."""
    uniform_(module.weight, 1 / math.sqrt(module.weight[0].numel()), draw("weight"))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
