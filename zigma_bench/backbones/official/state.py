"""Read official state dicts and copy their tensors into our parameters.

All names, shapes and values are checked first. One error lists all that don't match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import UsageError
from zigma_bench.layers.embed import Positions, sincos_2d
from zigma_bench.layers.tensors import faults_of, list_faults, name_text, not_finite
from zigma_bench.plugins.registry import Spec, target_spec
from zigma_bench.scans.grid import Grid

CLOSE = 1e-5  # a position table this close to the sin-cos formula counts as that formula
SETS = {  # keys under which training scripts save their weights
    "ema": ("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema"),
    "model": ("model", "online_model", "model_state_dict"),
}
AROUND = ("state_dict", "module", "checkpoint")  # keys of mappings that contain the sets of weights
BEFORE = (*SETS["ema"], *SETS["model"], "module", "net")  # prefixes that wrappers add to every name
INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # added anywhere in a name
DEEP = 8  # at most this many nested mappings
COUNTERS = ("n_averaged", "initted", "step", "num_updates", "decay")  # stored next to the weights of an averaged model


@dataclass(frozen=True)
class Weight:
    """One official tensor and our tensors that it fills. They are concatenated along its first dimension."""

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
    """A network, the official tensors to load into it, and a function to call after loading them.

    `config`: the arguments of the official constructor with defaults. `backbone` and `options`: our equivalents.
    """

    network: nn.Module
    layout: Sequence[Weight]
    finish: Callable[[], None]
    config: Any
    backbone: Spec
    options: Any


def map_weight(name: str, *ours: Tensor, shape: Sequence[int] | None = None) -> Weight:
    """A weight of an official shape; by default the shape of our tensors concatenated along the first dimension."""
    found = (sum(len(tensor) for tensor in ours), *ours[0].shape[1:]) if shape is None else tuple(shape)
    return Weight(name, found, ours)


def map_linear(name: str, *layers: nn.Module) -> list[Weight]:
    """The weight and, if any, the bias of an official linear layer, which may be split into several of our layers."""
    found = []
    for part in ("weight", "bias"):
        tensors = [getattr(layer, part, None) for layer in layers]
        if all(tensor is not None for tensor in tensors):
            found.append(map_weight(f"{name}.{part}", *tensors))  # type: ignore[arg-type]
    return found


def weight_sets(checkpoint: Any, deep: int = DEEP) -> dict[str, Mapping[Any, Any]]:
    """The sets of weights in a checkpoint: `ema`, `model` or both if their keys are present, else `only`.

    Unwraps mappings such as `{"state_dict": {"ema": ...}}`, and splits names such as `ema.blocks.0`. UsageError if
    `checkpoint` is not a mapping, if several entries may be the weights, or if more than `deep` mappings are nested.
    """
    if not isinstance(checkpoint, Mapping):
        raise UsageError(
            "not a state dict", expected="a mapping of names to tensors", got=type(checkpoint).__name__,
            do="pass torch.load(path, map_location='cpu', weights_only=True), or network.state_dict()",
        )  # fmt: skip
    if not deep:
        raise UsageError("not a state dict", expected=f"weights within {DEEP} mappings", got="more")
    found = {}
    for chosen, names in SETS.items():
        nested = [name for name in names if isinstance(checkpoint.get(name), Mapping)]
        if len(nested) > 1:
            raise UsageError("several entries may be the weights", got=nested, do="save only one of them")
        if nested:
            found[chosen] = _unwrapped(checkpoint[nested[0]], chosen, deep - 1)
    if found:
        return found
    if (inner := next((name for name in AROUND if isinstance(checkpoint.get(name), Mapping)), None)) is not None:
        return weight_sets(checkpoint[inner], deep - 1)
    return _split_by_prefix(checkpoint)


def _unwrapped(entry: Mapping[Any, Any], chosen: str, deep: int) -> Mapping[Any, Any]:
    """The weights in an entry: the entry itself, or the weights nested in it."""
    inner = weight_sets(entry, deep)
    return inner[chosen] if chosen in inner else next(iter(inner.values()))


def _split_by_prefix(checkpoint: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """Split a mapping that contains both `ema.blocks.0` and `model.blocks.0` into the two sets."""
    tensors = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    first = {str(name).partition(".")[0] for name in tensors} - set(COUNTERS)
    starts = {chosen: [name for name in names if name in first] for chosen, names in SETS.items()}
    known = [start for found in starts.values() for start in found]
    if len(known) < 2 or set(known) != first or any(len(found) > 1 for found in starts.values()):
        return {"only": checkpoint}
    return {
        chosen: {name: value for name, value in checkpoint.items() if str(name).partition(".")[0] == found[0]}
        for chosen, found in starts.items()
    }


def tensors_of(checkpoint: Mapping[str, Any], chosen: str) -> dict[str, Tensor]:
    """The tensors by official name; `chosen` selects a set of weights of a training checkpoint.

    Removes prefixes of all names (`module.`, `_orig_mod.`, `ema.` and similar) and parts that compilers and wrappers
    add to names. UsageError lists all entries that are not usable tensors.
    """
    sets = weight_sets(checkpoint)
    if "only" not in sets and chosen not in sets:
        raise UsageError(
            f"the checkpoint has no weights {chosen!r}", expected=f"one of {', '.join(sets)}", do="set weights"
        )
    entries = dict(sets["only"] if "only" in sets else sets[chosen])
    if not entries:
        raise UsageError("not a state dict", expected="a tensor for every name", got="no entry")
    wrapped = any(_has_wrapper_prefix(name) for name in entries)
    entries = {name: value for name, value in entries.items() if not (wrapped and _is_counter(name, value))}
    if faults := faults_of(entries):
        raise UsageError(
            f"not a state dict of a network: {list_faults(faults)}",
            expected="a dense tensor of floating-point numbers, with its values, for every name",
            do="save network.state_dict() of the trained network in float32",
        )
    return _without_wrappers(entries)


def _has_wrapper_prefix(name: Any) -> bool:
    return isinstance(name, str) and name.partition(".")[0] in (*BEFORE, *INSIDE) and "." in name


def _is_counter(name: Any, value: Any) -> bool:
    """Whether an entry is the counter of an averaged model."""
    return name in COUNTERS and isinstance(value, Tensor) and value.numel() == 1


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts of names that wrappers add. UsageError if two tensors end up with the same name."""
    names = {name: ".".join(part for part in name.split(".") if part not in INSIDE) for name in tensors}
    while (
        all(_has_wrapper_prefix(name) for name in names.values())
        and len({n.partition(".")[0] for n in names.values()}) == 1
    ):
        names = {old: new.partition(".")[2] for old, new in names.items()}
    found: dict[str, str] = {}
    for old, new in names.items():
        if new in found:
            raise UsageError(
                "two tensors have the same name without wrappers", expected=f"one tensor {name_text(new)}",
                got=f"{name_text(found[new])} and {name_text(old)}", do="save only one set of weights",
            )  # fmt: skip
        found[new] = old
    return {new: tensors[old] for new, old in found.items()}


def fill_weights(layout: Sequence[Weight], tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Fill every weight. UsageError lists missing and unexpected names, different shapes, and NaN or infinity."""
    known = {item.name: item for item in layout}
    faults = {
        "missing": [name for name in known if name not in tensors],
        "unexpected": [name_text(name) for name in tensors if name not in known],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(item.shape)}"
            for name, item in known.items()
            if name in tensors and tuple(tensors[name].shape) != item.shape
        ],
    }
    if any(faults.values()):
        raise UsageError(
            f"the weights don't match the network of the config: {list_faults(faults)}",
            where=where,
            expected=f"{len(known)} tensors",
            got=len(tensors),
            do="use the arguments that the network was trained with",
        )
    if bad := not_finite(tensors):
        raise UsageError(
            f"the weights are not finite: {list_faults(bad)}", where=where, expected="finite weights",
            do="use an earlier checkpoint, or download the file again",
        )  # fmt: skip
    for name, item in known.items():
        item.fill(tensors[name])


def keep_positions(positions: Positions, grid: Grid) -> None:
    """If the fixed positions of a checkpoint differ from the formula, save them with the network's weights."""
    if positions.kind == "sincos":
        table = positions.table
        if not torch.allclose(table, sincos_2d(grid, table.shape[-1]), atol=CLOSE, rtol=0):
            positions.register_buffer("table", table, persistent=True)


def parse_arguments(kind: str, options: type, config: Mapping[str, Any]) -> Any:
    """Check the arguments of an official constructor. UsageError for unknown, missing or wrong ones."""
    spec = target_spec("constructor", kind, "", options=options, facts=None, owner="upstream")
    return spec.make_options(spec.resolve(config, where=f"config of {kind}"))
