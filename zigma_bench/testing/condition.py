"""Check a conditional network: each sample uses its own condition, and a missing condition is an error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigma_bench.errors import ZigmaBenchError
from zigma_bench.plugins.registry import Condition
from zigma_bench.testing.network import ModuleCase, noise, relative_difference, with_noise
from zigma_bench.testing.report import CheckFailed

TEXT_TOKENS = 7  # of a generated text, if the options don't set the number


def made_up_condition(condition: Condition, options: Any, batch: int) -> Tensor:
    """Labels int64 [B], or text features [B, S, C]; different for each sample."""
    if condition.kind == "class":
        return torch.arange(batch) % condition.size
    return noise(batch, getattr(options, "text_tokens", TEXT_TOKENS), condition.size, seed=2)


def check_condition(case: ModuleCase, condition: Condition) -> str:
    """Another condition must change the output of its own sample only. Returns the difference in words."""
    x, t, y = case.inputs
    other = y.clone()
    other[0] = y[1]
    network = with_noise(case)
    with torch.no_grad():
        first, second = network(x, t, y), network(x, t, other)
    off = relative_difference(second[0], first[0])
    if off == 0 and condition.size > 1:
        raise CheckFailed(f"the same output for another {condition.kind}")
    if relative_difference(second[1:], first[1:]) > 0:
        raise CheckFailed(f"the {condition.kind} of one sample changes the output of another")
    try:
        network(x, t)
    except ZigmaBenchError:
        return f"a difference of {off:.1g}"
    raise CheckFailed(f"an output without a {condition.kind}, instead of an error of zigma_bench.errors")
