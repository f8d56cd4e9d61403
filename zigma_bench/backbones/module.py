"""Wrap a plain `nn.Module` in the interface of a backbone.

Initial weights: the constructor runs with PyTorch's CPU generator seeded with the cell's seed; afterwards the
generator's earlier state is restored. So the constructor's initialization depends only on the seed, and cells that
differ only in the order start from the same weights. Submodules with `init_parameters(draw)`, such as the layers of
zigma-bench, are then initialized by the names of their parameters (layers/init.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import UsageError
from zigma_bench.layers.init import fill_named_parameters, named_generator
from zigma_bench.plugins.registry import Condition


class ModuleBackbone(nn.Module):
    """`module(x, t, condition)` as a backbone: x [B, C, H, W] and t [B] -> [B, C, H, W].

    `construct()` builds the module; it is called by `draw_weights(seed)`, and until then `module` is None. If there is
    no `condition`, the module gets None as its third argument, or only two arguments if it has no third parameter.
    """

    module: nn.Module | None

    def __init__(self, construct: Callable[[], Any], *, name: str, condition: Condition | None) -> None:
        super().__init__()
        self.construct, self.name, self.condition = construct, name, condition
        self.module = None
        self.takes_condition = True

    def draw_weights(self, seed: int) -> None:
        """Build the module with the initial weights of a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(named_generator(seed, "module").initial_seed())
            module = self.construct()
        if not isinstance(module, nn.Module):
            raise UsageError(f"the backbone {self.name!r} is not a module", expected="an nn.Module", got=module)
        self.takes_condition = _takes_condition(module)
        if self.condition is not None and not self.takes_condition:
            raise UsageError(
                f"the backbone {self.name!r} is conditioned on {self.condition}, but forward has no parameter for it",
                expected="forward(x, t, condition)",
            )
        fill_named_parameters(module, seed)
        self.module = module

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert self.module is not None, "draw_weights comes first"
        if (y is None) != (self.condition is None):
            raise UsageError(
                f"the condition of the backbone {self.name!r} is wrong", expected=str(self.condition or "no condition"),
                got="no condition" if y is None else list(y.shape),
            )  # fmt: skip
        found = self.module(x, t, y) if self.takes_condition else self.module(x, t)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(
                f"the output of the backbone {self.name!r} doesn't have the shape of its input",
                expected=str(list(x.shape)), got=got,
            )  # fmt: skip
        return found


def _takes_condition(module: nn.Module) -> bool:
    """Whether `forward` has a third parameter."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) > 2
