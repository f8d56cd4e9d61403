"""The cost of a backbone that has no formula: its parameters, and its FLOPs by PyTorch's counter.

The counter counts matrix products, convolutions and attention. A formula may count more, such as a scan, so a table
marks the FLOPs that come from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.registry import Condition, Cost, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

BACKEND = "torch"  # the counter only sees PyTorch's own operators
TEXT_TOKENS = 77  # the length of a text if neither the options nor the data determine it

_counted: dict[tuple[Any, ...], Cost] = {}


def counted_cost(spec: Spec, options: Any, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of a network, counted by building it on the CPU and calling it with one image; cached by arguments."""
    digests = tuple(route.digest for route in routes)
    key = (spec.name, spec.owner, spec.target, repr(options), str(grid), options.patch, channels, digests)
    if key not in _counted:
        _counted[key] = _count_cost(spec, options, grid, channels, routes)
    return _counted[key]


def _count_cost(spec: Spec, options: Any, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    network = spec.load()(options, grid=grid, channels=channels, routes=routes, backend=BACKEND)
    initialise_network(network, 0)
    side = (channels, grid.height * options.patch, grid.width * options.patch)
    image = side if grid.frames == 1 else (grid.frames, *side)
    inputs = [torch.zeros(1, *image), torch.zeros(1)]
    if (condition := spec.facts.condition(options)) is not None:
        inputs.append(_neutral_condition(condition))
    counter = FlopCounterMode(display=False)
    # The counter must see attention as two matrix products, which the backend MATH uses on a CPU.
    with torch.random.fork_rng(devices=[]), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network.eval()(*inputs)
    by_operator = counter.get_flop_counts().get("Global", {})  # missing for a network without matrix products
    flops = {str(operator).rpartition(".")[2]: count for operator, count in by_operator.items()}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, flops, flops_by="counter")


def _neutral_condition(condition: Condition) -> Tensor:
    """A condition for one image: the first class, or text features of zeros."""
    if condition.kind == "class":
        return torch.zeros(1, dtype=torch.int64)
    return torch.zeros(1, condition.tokens or TEXT_TOKENS, condition.size)
