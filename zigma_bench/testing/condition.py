"""What a conditional network must keep: it reads its condition, each sample its own, and does not go on without it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigma_bench.errors import ZigmaBenchError
from zigma_bench.plugins.registry import Condition
from zigma_bench.testing.network import ModuleCase, noise, relative_difference, with_noise
from zigma_bench.testing.report import CheckFailed

TEXT_TOKENS = 7  # of a made-up text, where the options name no number


def made_up_condition(condition: Condition, options: Any, batch: int) -> Tensor:
    """Labels int64 [B], or text features [B, S, C]; each sample has another."""
    if condition.kind == "class":
        return torch.arange(batch) % condition.size
    return noise(batch, getattr(options, "text_tokens", TEXT_TOKENS), condition.size, seed=2)


def check_condition(case: ModuleCase, condition: Condition) -> str:
    """The difference that another condition makes to the sample that is given it, and to no other."""
    x, t, y = case.inputs
    other = y.clone()
    other[0] = y[1]
    network = with_noise(case)
    with torch.no_grad():
        first, second = network(x, t, y), network(x, t, other)
    off = relative_difference(second[0], first[0])
    if off == 0 and condition.size > 1:
        raise CheckFailed(f"the same for another {condition.kind}")
    if relative_difference(second[1:], first[1:]) > 0:
        raise CheckFailed(f"the {condition.kind} of one sample changes another")
    try:
        network(x, t)
    except ZigmaBenchError:
        return f"a difference of {off:.1g}"
    raise CheckFailed(f"an output without a {condition.kind}, and no error of zigma_bench.errors")
