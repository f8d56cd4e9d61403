"""State dicts of the official layout: which tensors they hold, and how each fills parameters of ours.

Every name, shape and value is checked, and all that differ are named at once, the first of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import UsageError
from zigma_bench.layers.embed import Positions, sincos_2d
from zigma_bench.layers.tensors import faults_of, listed, name_text, not_finite
from zigma_bench.plugins.registry import Spec, target_spec
from zigma_bench.scans.grid import Grid

CLOSE = 1e-5  # positions that are nearer to the formula's than this are those
SETS = {  # under which names a training script saves its weights
    "ema": ("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema"),
    "model": ("model", "online_model", "model_state_dict"),
}
AROUND = ("state_dict", "module", "checkpoint")  # mappings that hold one or both
BEFORE = (*SETS["ema"], *SETS["model"], "module", "net")  # parts that wrappers put before every name
INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts that may stand anywhere
DEEP = 8  # mappings in one another
COUNTERS = ("n_averaged", "initted", "step", "num_updates", "decay")  # beside the weights of an averaged model


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


def weight_sets(given: Any, deep: int = DEEP) -> dict[str, Mapping[Any, Any]]:
    """The sets of weights of a checkpoint: `ema`, `model` or both where it names them, else `only`.

    Mappings such as `{"state_dict": {"ema": ...}}` are opened, and names such as `ema.blocks.0` taken apart. UsageError
    for what is no mapping, for two mappings of which each may be the weights, and for more than `deep` in one another.
    """
    if not isinstance(given, Mapping):
        raise UsageError(
            "this is no state dict", expected="a mapping of names to tensors", got=type(given).__name__,
            do="give torch.load(path, map_location='cpu', weights_only=True), or network.state_dict()",
        )  # fmt: skip
    if not deep:
        raise UsageError("this is no state dict", expected=f"weights within {DEEP} mappings", got="more")
    found = {}
    for chosen, names in SETS.items():
        nested = [name for name in names if isinstance(given.get(name), Mapping)]
        if len(nested) > 1:
            raise UsageError("several entries may be the weights", got=nested, do="save one of them alone")
        if nested:
            found[chosen] = _opened(given[nested[0]], chosen, deep - 1)
    if found:
        return found
    if (inner := next((name for name in AROUND if isinstance(given.get(name), Mapping)), None)) is not None:
        return weight_sets(given[inner], deep - 1)
    return _apart(given)


def _opened(given: Mapping[Any, Any], chosen: str, deep: int) -> Mapping[Any, Any]:
    """The weights in a set: itself, or what a mapping in it holds."""
    inner = weight_sets(given, deep)
    return inner[chosen] if chosen in inner else next(iter(inner.values()))


def _apart(given: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """The sets of names such as `ema.blocks.0` and `model.blocks.0` that stand side by side."""
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    first = {str(name).partition(".")[0] for name in tensors} - set(COUNTERS)
    starts = {chosen: [name for name in names if name in first] for chosen, names in SETS.items()}
    known = [start for found in starts.values() for start in found]
    if len(known) < 2 or set(known) != first or any(len(found) > 1 for found in starts.values()):
        return {"only": given}
    return {
        chosen: {name: value for name, value in given.items() if str(name).partition(".")[0] == found[0]}
        for chosen, found in starts.items()
    }


def tensors_of(given: Mapping[str, Any], chosen: str) -> dict[str, Tensor]:
    """The tensors by their official names: of a training checkpoint the `chosen` ones.

    What stands before every name (`module.`, `_orig_mod.`, `ema.` and their kin) and what compilers and wrappers put
    into names is taken away. UsageError with all entries that are no usable tensors.
    """
    sets = weight_sets(given)
    if "only" not in sets and chosen not in sets:
        raise UsageError(
            f"the checkpoint has no weights {chosen!r}", expected=f"one of {', '.join(sets)}", do="set weights"
        )
    entries = dict(sets["only"] if "only" in sets else sets[chosen])
    if not entries:
        raise UsageError("this is no state dict", expected="a tensor for every name", got="no entry")
    wrapped = any(_wrapper(name) for name in entries)
    entries = {name: value for name, value in entries.items() if not (wrapped and _counts(name, value))}
    if faults := faults_of(entries):
        raise UsageError(
            f"this is no state dict of a network: {listed(faults)}",
            expected="a dense tensor of floating-point numbers, with its values, for every name",
            do="save network.state_dict() of the trained network in float32",
        )
    return _without_wrappers(entries)


def _wrapper(name: Any) -> bool:
    return isinstance(name, str) and name.partition(".")[0] in (*BEFORE, *INSIDE) and "." in name


def _counts(name: Any, value: Any) -> bool:
    """Whether an entry is the counter that an averaged model keeps beside its weights."""
    return name in COUNTERS and isinstance(value, Tensor) and value.numel() == 1


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what stands before every name; UsageError where two get one name."""
    names = {name: ".".join(part for part in name.split(".") if part not in INSIDE) for name in tensors}
    while all(_wrapper(name) for name in names.values()) and len({n.partition(".")[0] for n in names.values()}) == 1:
        names = {old: new.partition(".")[2] for old, new in names.items()}
    found: dict[str, str] = {}
    for old, new in names.items():
        if new in found:
            raise UsageError(
                "two tensors stand for one", expected=f"one tensor {name_text(new)}",
                got=f"{name_text(found[new])} and {name_text(old)}", do="save one set of weights",
            )  # fmt: skip
        found[new] = old
    return {new: tensors[old] for new, old in found.items()}


def fill(layout: Sequence[Weight], tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Fill every weight; UsageError with the names that are missing or unexpected, shapes that differ, and NaN."""
    known = {item.name: item for item in layout}
    faults = {
        "missing": [name for name in known if name not in tensors],
        "unexpected": [name_text(name) for name in tensors if name not in known],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} and not {list(item.shape)}"
            for name, item in known.items()
            if name in tensors and tuple(tensors[name].shape) != item.shape
        ],
    }
    if any(faults.values()):
        raise UsageError(
            f"the weights are not those of the network that the config describes: {listed(faults)}",
            where=where,
            expected=f"{len(known)} tensors",
            got=len(tensors),
            do="give the arguments that the network was trained with",
        )
    if bad := not_finite(tensors):
        raise UsageError(
            f"the weights hold values that are no numbers: {listed(bad)}", where=where, expected="finite weights",
            do="take an earlier checkpoint, or get the file again",
        )  # fmt: skip
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
