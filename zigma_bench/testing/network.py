"""Checks shared by all network modules of plugins: cost, initial weights, gradients, independent samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import initialise_network, named_generator
from zigma_bench.plugins.registry import Cost
from zigma_bench.testing.flops import compare_flops
from zigma_bench.testing.report import CheckFailed, CheckStep
from zigma_bench.training.checkpoint import load_weights, save_weights

TOLERANCE = 1e-4  # relative to the largest value; a different summation order changes float32 by less


@dataclass(frozen=True)
class ModuleCase:
    """How to build a module, its inputs (batch first), and the expected shape of its output."""

    build: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    shape: tuple[int, ...]
    cost: Callable[[], Cost]


def network_steps(case: ModuleCase) -> list[CheckStep]:
    """The checks of one module; backbones and mixers share them."""
    count = len(case.inputs[0])
    return [
        CheckStep("builds", "an nn.Module", lambda: type(_build_initialised(case, 0)).__name__, essential=True),
        CheckStep("parameters", "as many as in the cost formula", lambda: same_parameters(case)),
        CheckStep("FLOPs", "integers by operator, which add up to those of one sample", lambda: _check_flops(case)),
        CheckStep(
            "initial weights",
            "finite, and the same for the same seed",
            lambda: _check_initial_weights(case),
            essential=True,
        ),
        CheckStep(
            "output",
            f"finite float32 {list(case.shape)}, the same each time",
            lambda: _check_output(case),
            essential=True,
        ),
        CheckStep("gradients", "finite, for every parameter and the input", lambda: _check_gradients(case)),
        CheckStep(
            "samples apart", f"each of {count} outputs depends only on its own input", lambda: _check_apart(case)
        ),
        CheckStep("state dict", "the same outputs after saving and loading", lambda: _check_state_dict(case)),
        CheckStep("mixed precision", "finite under bfloat16 autocast", lambda: _check_autocast(case)),
    ]


def with_noise(case: ModuleCase, seed: int = 0) -> nn.Module:
    """The module with noise added to its initial weights, so that gates that start at zero hide nothing."""
    network = _build_initialised(case, seed).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            draw = named_generator(seed, f"check/{name}")
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return network


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Fixed standard normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    scale = max(float(b.abs().max()), 1e-12)
    return float((a - b).abs().max()) / scale


def same_parameters(case: ModuleCase) -> str:
    """Check that the formula gives the module's number of parameters."""
    built = sum(parameter.numel() for parameter in _build_initialised(case, 0).parameters())
    formula = case.cost().parameters
    if built != formula:
        raise CheckFailed(f"{formula:,} by the formula, {built:,} built")
    return f"{built:,}"


def _build_initialised(case: ModuleCase, seed: int) -> nn.Module:
    """The module with the initial weights of a seed. Parameters that it doesn't initialise stay NaN."""
    network = case.build()
    if not isinstance(network, nn.Module):
        raise CheckFailed(f"a {type(network).__name__}")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float("nan"))
    initialise_network(network, seed)
    return network


def _check_flops(case: ModuleCase) -> str:
    cost = case.cost()
    bad = {name: value for name, value in cost.forward_flops.items() if type(value) is not int or value < 0}
    if bad:
        raise CheckFailed(f"{bad}")
    if cost.flops_by == "counter":
        return f"{cost.total_flops:,} measured by PyTorch's counter, because there is no formula"
    return compare_flops(lambda: with_noise(case), case.inputs, cost)


def _check_initial_weights(case: ModuleCase) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = _build_initialised(case, 0)
        torch.manual_seed(2)
        second = _build_initialised(case, 0)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        if not torch.isfinite(a).all():
            raise CheckFailed(f"{name} is not initialised; fill it in init_parameters(draw)")
        if not torch.equal(a, b):
            raise CheckFailed(f"{name} differs between two builds; draw it from draw(name) in init_parameters")
    return f"{len(first.state_dict())} tensors"


def _check_output(case: ModuleCase) -> str:
    with torch.no_grad():
        network = with_noise(case)
        found, again = network(*case.inputs), network(*case.inputs)
    if not isinstance(found, Tensor):
        raise CheckFailed(f"a {type(found).__name__}")
    if tuple(found.shape) != case.shape or found.dtype != torch.float32:
        raise CheckFailed(f"{found.dtype} {list(found.shape)}")
    if not torch.isfinite(found).all():
        raise CheckFailed("values that are not finite")
    if not torch.equal(found, again):
        raise CheckFailed("a different output for the same input; evaluation must not be random")
    return f"{found.dtype} {list(found.shape)}".replace("torch.", "")


def _check_gradients(case: ModuleCase) -> str:
    network = with_noise(case)
    inputs = [value.clone().requires_grad_(value.is_floating_point()) for value in case.inputs]
    (network(*inputs) * noise(*case.shape, seed=1)).sum().backward()
    named = [*network.named_parameters(), ("the input", inputs[0])]
    for name, value in named:
        if value.grad is None or not value.grad.any():
            raise CheckFailed(f"no gradient for {name}")
        if not torch.isfinite(value.grad).all():
            raise CheckFailed(f"the gradient of {name} is not finite")
    return f"{len(named) - 1} parameters"


def _check_apart(case: ModuleCase) -> str:
    """A sample must give the same output alone and in a batch, and its gradient must not reach other samples."""
    network = with_noise(case)
    with torch.no_grad():
        alone = network(*(value[1:2] for value in case.inputs))
        off = relative_difference(alone, network(*case.inputs)[1:2])
    if not off <= TOLERANCE:
        raise CheckFailed(f"the output of a sample on its own differs by {off:.2g} from that in a batch")
    inputs = [value.clone().requires_grad_(value.is_floating_point()) for value in case.inputs]
    network.train()(*inputs)[0].sum().backward()
    for value in inputs:
        if value.grad is not None and value.grad[1:].any():
            raise CheckFailed("in training, an output depends on the other samples of the batch")
    return f"a difference of {off:.1g}"


def _check_state_dict(case: ModuleCase) -> str:
    network, other = with_noise(case), with_noise(case, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder) / "weights.safetensors", network)
        load_weights(Path(folder) / "weights.safetensors", other)
    with torch.no_grad():
        off = relative_difference(other(*case.inputs), network(*case.inputs))
    if not off <= TOLERANCE:
        raise CheckFailed(f"outputs differ by {off:.2g}; everything learned must be a parameter or a persistent buffer")
    return "the same"


def _check_autocast(case: ModuleCase) -> str:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_noise(case)(*case.inputs)
    if tuple(found.shape) != case.shape or not torch.isfinite(found).all():
        raise CheckFailed(f"{list(found.shape)}, finite: {bool(torch.isfinite(found).all())}")
    return str(found.dtype).replace("torch.", "")
