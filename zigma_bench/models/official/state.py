"""State dicts of the official layout: which tensors they hold, and how each fills parameters of ours.

Every name and shape is checked, and all that differ are told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import UsageError
from zigma_bench.grid import Grid
from zigma_bench.models.embed import Positions, sincos_2d
from zigma_bench.registry import Spec, target_spec

CLOSE = 1e-5  # positions that are nearer to the formula's than this are those


@dataclass(frozen=True)
class Weight:
    """One official tensor and what it fills: tensors of ours that lie behind one another along its first side."""

    name: str
    shape: tuple[int, ...]
    ours: tuple[Tensor, ...]

    @torch.no_grad()
    def fill(self, value: Tensor) -> None:
        parts = torch.split(value.detach().reshape(-1), [tensor.numel() for tensor in self.ours])
        for tensor, part in zip(self.ours, parts, strict=True):
            tensor.copy_(part.reshape(tensor.shape))


@dataclass(frozen=True)
class Loading:
    """A network, the official tensors that it waits for, and what is done once it has them.

    `config`: the constructor's arguments with their defaults; `backbone` and `options`: what they are here.
    """

    network: nn.Module
    layout: Sequence[Weight]
    finish: Callable[[], None]
    config: Any
    backbone: Spec
    options: Any


def weight(name: str, *ours: Tensor, shape: Sequence[int] | None = None) -> Weight:
    """A weight of the given official shape, else of that of ours, side by side along the first."""
    found = (sum(len(tensor) for tensor in ours), *ours[0].shape[1:]) if shape is None else tuple(shape)
    return Weight(name, found, ours)


def linear(name: str, *layers: nn.Module) -> list[Weight]:
    """A linear layer: its weight and, where it has one, its bias; of several of ours, one behind the other."""
    found = []
    for part in ("weight", "bias"):
        tensors = [getattr(layer, part, None) for layer in layers]
        if all(tensor is not None for tensor in tensors):
            found.append(weight(f"{name}.{part}", *tensors))  # type: ignore[arg-type]
    return found


def tensors_of(given: Mapping[str, Any], chosen: str) -> dict[str, Tensor]:
    """The tensors by name: of a training checkpoint the chosen ones, and without `module.` before every name."""
    if not isinstance(given, Mapping):
        raise UsageError(
            "this is no state dict", expected="a mapping of names to tensors", got=type(given).__name__,
            do="give torch.load(path, map_location='cpu', weights_only=True), or network.state_dict()",
        )  # fmt: skip
    nested = [key for key in ("model", "ema") if isinstance(given.get(key), Mapping)]
    if nested and chosen not in nested:
        raise UsageError(
            f"the checkpoint has no weights {chosen!r}", expected=f"one of {', '.join(nested)}", do="set weights"
        )
    tensors = dict(given[chosen]) if nested else dict(given)
    wrong = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if wrong or not tensors:
        got = f"other values for {', '.join(map(str, wrong))}" if wrong else "no entry"
        raise UsageError("this is no state dict", expected="a tensor for every name", got=got)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def fill(layout: Sequence[Weight], tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Fill every weight; UsageError with all names that are missing or unexpected and all shapes that differ."""
    known = {item.name: item for item in layout}
    faults = {
        "missing": [name for name in known if name not in tensors],
        "unexpected": [name for name in tensors if name not in known],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} and not {list(item.shape)}"
            for name, item in known.items()
            if name in tensors and tuple(tensors[name].shape) != item.shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names)
        raise UsageError(
            f"the weights are not those of the network that the config describes: {told}",
            where=where,
            expected=f"{len(known)} tensors",
            got=len(tensors),
            do="give the arguments that the network was trained with",
        )
    for name, item in known.items():
        item.fill(tensors[name])


def keep_positions(positions: Positions, grid: Grid) -> None:
    """Fixed positions that a checkpoint holds and that are not the formula's belong to the network's weights."""
    if positions.kind == "sincos":
        table = positions.table
        if not torch.allclose(table, sincos_2d(grid, table.shape[-1]), atol=CLOSE, rtol=0):
            positions.register_buffer("table", table, persistent=True)


def parsed(kind: str, options: type, config: Mapping[str, Any]) -> Any:
    """The official constructor's arguments as a checked dataclass; UsageError for unknown, missing or wrong ones."""
    spec = target_spec("constructor", kind, "", options=options, facts=None, owner="upstream")
    return spec.make_options(spec.resolve(config, where=f"config of {kind}"))
