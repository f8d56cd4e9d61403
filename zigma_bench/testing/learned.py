"""Check a learned order, which a module computes from the features: its paths, weights and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.testing.network import ModuleCase, network_steps, noise
from zigma_bench.testing.report import CheckFailed, CheckStep

GRID, WIDTH, BATCH, DEPTH = Grid(4, 6), 32, 3, 2
SHARED = ("builds", "parameters", "FLOPs", "initial weights", "samples apart", "state dict")


class WeightedOrder(nn.Module):
    """Wraps the order's module as a map of features: x in the order of the path, multiplied by the weight if there is
    one."""

    def __init__(self, order: nn.Module) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        paths, weight = self.order(x)
        read: Tensor = x.gather(1, paths[:, 0, :, None].expand_as(x))
        return read if weight is None else read * weight.gather(1, paths[:, 0])[..., None]


def learned_steps(spec: Spec, values: Mapping[str, Any]) -> list[CheckStep]:
    """The checks of the module of a learned order."""
    options = spec.make_options(values)

    def build() -> nn.Module:
        order = spec.load()(options, width=WIDTH, grid=GRID, layer=0, depth=DEPTH)
        if not isinstance(order, nn.Module):
            raise CheckFailed(f"a {type(order).__name__}")
        return WeightedOrder(order)

    def cost() -> Cost:
        found: Cost = spec.facts.cost(options, width=WIDTH, grid=GRID)
        return found

    shape = (BATCH, GRID.tokens, WIDTH)
    case = ModuleCase(build, (noise(*shape),), shape, cost)
    shared = [step for step in network_steps(case) if step.what in SHARED]
    paths = f"int64 {[BATCH, spec.facts.paths, GRID.tokens]} with every token once"
    return [
        *shared,
        CheckStep("paths", paths, lambda: _paths(spec, case)),
        CheckStep("paths again", "the same for the same features, in evaluation", lambda: _check_same_paths(case)),
        CheckStep("a gradient", "for every parameter, through the weight", lambda: _check_gradient(case)),
    ]


def _paths(spec: Spec, case: ModuleCase) -> str:
    from zigma_bench.testing.network import with_noise

    with torch.no_grad():
        paths, weight = with_noise(case).order(*case.inputs)  # type: ignore[operator]
    expected = (BATCH, spec.facts.paths, GRID.tokens)
    if paths.dtype != torch.int64 or tuple(paths.shape) != expected:
        raise CheckFailed(f"{paths.dtype} {list(paths.shape)}")
    if not torch.equal(paths.sort(-1).values, torch.arange(GRID.tokens).expand(expected)):
        raise CheckFailed(f"a path that isn't a permutation: {paths[0, 0].tolist()}")
    if weight is not None and tuple(weight.shape) != (BATCH, GRID.tokens):
        raise CheckFailed(f"a weight of {list(weight.shape)}")
    return f"{list(paths.shape)}, weight {'none' if weight is None else list(weight.shape)}"


def _check_same_paths(case: ModuleCase) -> str:
    """In evaluation the order must not be random, or else every metric of the network would use another one."""
    from zigma_bench.testing.network import with_noise

    network = with_noise(case)
    with torch.no_grad():
        first, second = (network.order(*case.inputs)[0] for _ in range(2))  # type: ignore[operator]
    if not torch.equal(first, second):
        raise CheckFailed(
            f"{first[0, 0, :8].tolist()} and then {second[0, 0, :8].tolist()}; compute the order only from the features"
        )
    return "the same"


def _check_gradient(case: ModuleCase) -> str:
    from zigma_bench.testing.network import with_noise

    network = with_noise(case)
    parameters = dict(network.named_parameters())
    if not parameters:
        return "it has no parameters"
    (network(*case.inputs) * noise(*case.shape, seed=1)).sum().backward()
    for name, value in parameters.items():
        if value.grad is None or not value.grad.any() or not torch.isfinite(value.grad).all():
            raise CheckFailed(f"no gradient for {name.removeprefix('order.')}")
    return f"{len(parameters)} parameters"
