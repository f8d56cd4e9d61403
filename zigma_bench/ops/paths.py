"""Several paths in one call: an argument has a leading dimension K where each path has its own, else all share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zigma_bench.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Given = Mapping[str, tuple["Tensor | None", int]]  # an argument and its dimensions for one path, by its name


def count_paths(given: Given, *, where: str) -> int | None:
    """K, or None if no argument has a dimension for paths; UsageError if two arguments differ in it."""
    found = {
        name: len(tensor) for name, (tensor, dims) in given.items() if tensor is not None and tensor.dim() == dims + 1
    }
    if len(set(found.values())) > 1 or 0 in found.values():
        sizes = ", ".join(f"{name} {size}" for name, size in found.items())
        raise UsageError(
            f"the arguments have different numbers of paths: {sizes}", where=where, expected="one K for all"
        )
    return next(iter(found.values()), None)


def of_path(given: Given, number: int) -> dict[str, Any]:
    """The arguments of one path."""
    return {
        name: tensor[number] if tensor is not None and tensor.dim() == dims + 1 else tensor
        for name, (tensor, dims) in given.items()
    }


def stacked(given: Given, paths: int) -> dict[str, Any]:
    """Every argument with its leading dimension K; what is shared is not copied."""
    return {
        name: tensor if tensor is None or tensor.dim() == dims + 1 else tensor[None].expand(paths, *tensor.shape)
        for name, (tensor, dims) in given.items()
    }
