"""Compare the FLOPs of a module's formula with those that PyTorch counts.

PyTorch counts matrix products, convolutions and attention. For all other operators we count the values that they read
and write: a formula may declare only a few FLOPs for each value, as that of a scan does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.plugins.registry import Cost
from zigma_bench.testing.report import CheckFailed

LESS = 0.02  # the share that a formula may omit, such as a small projection
A_VALUE, A_SCANNED_VALUE = 1, 3  # allowed FLOPs for each value that other operators read or write


@dataclass(frozen=True)
class CountedFlops:
    """`products`: FLOPs that PyTorch counts. `values`: values read and written by all other operators. `foreign`:
    operators from outside PyTorch, which can't be counted."""

    products: int
    values: int
    foreign: tuple[str, ...]


def count_flops(network: nn.Module, inputs: tuple[Tensor, ...]) -> CountedFlops:
    """Count the FLOPs of one forward pass of one sample, in evaluation mode."""
    one = [value[:1] for value in inputs]
    values = _Values()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, values:
        network.eval()(*one)
    return CountedFlops(counter.get_total_flops(), values.count, tuple(sorted(values.foreign)))


class _Values(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the values that operators read and write. Views don't count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.foreign = 0, set[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.namespace not in ("aten", "prim", "prims"):
            self.foreign.add(str(func))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, found))
            self.count += sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
        return found


def compare_flops(build: Callable[[], nn.Module], inputs: tuple[Tensor, ...], cost: Cost) -> str:
    """The declared FLOPs in words; CheckFailed if they are too few, or more than the network can do."""
    declared = cost.total_flops
    counted = count_flops(build(), inputs)
    words = f"{declared:,} by the formula, {counted.products:,} counted by PyTorch in products and convolutions"
    if declared < (1 - LESS) * counted.products:
        raise CheckFailed(f"{words}; the formula omits some")
    if counted.foreign:
        return f"{words}; {', '.join(counted.foreign)} can't be counted"
    scan = cost.forward_flops.get("scan", 0)
    for part, flops, each in (("", declared, A_SCANNED_VALUE), (" without the scan", declared - scan, A_VALUE)):
        room = each * counted.values
        if flops > counted.products + room:
            most = f"all other operators read and write {counted.values:,} values, for at most {room:,} FLOPs"
            raise CheckFailed(f"{words}; {most}, so {flops:,}{part} are too many")
    return f"{words}, in {', '.join(cost.forward_flops)}" if cost.forward_flops else "none declared, none counted"
