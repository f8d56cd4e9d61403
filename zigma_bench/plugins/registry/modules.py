"""A plain `nn.Module` as a backbone: a class, or a function that returns a module, without options class or facts.

The parameters of the constructor are the backbone's options, except those in `FILLED`, which the framework sets, and
those in `FROM_DATA`, which a suite may omit if they follow from the data. This module doesn't import torch.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry.costs import Condition, Cost
from zigma_bench.plugins.registry.facts import BackboneFacts, DataFacts
from zigma_bench.plugins.registry.specs import Spec, first_line, load_target, target_spec

Count = Annotated[int, Interval(ge=1, le=10_000_000)]

FILLED = {
    "channels": "channels of an image",
    "height": "pixels",
    "width": "pixels",
    "frames": "frames of a clip, 1 for an image",
    "grid": "the `Grid` of tokens, for the option `patch`",
    "routes": "a `Route` for each layer; the option `depth` is the number of layers",
    "backend": "the backend of the operators",
}
FROM_DATA = ("classes", "text_width", "text_tokens")
READ_BY_PLAN = ("depth", "patch")  # whole-number options that a plan reads; a missing one counts as 1

NN_MODULE = "torch.nn.modules.module"

# These packages are above this one and import torch, so they are named by text
MODULE_BACKBONE = "zigma_bench.backbones.module:ModuleBackbone"
COUNTED_COST = "zigma_bench.backbones.counted:counted_cost"


def module_spec(name: str, target: str | Callable[..., Any], *, owner: str, doc: str | None = None) -> Spec:
    """The spec of a plain module; `target` is its class, a function that returns it, or the `"module:name"` of either.

    Raises UsageError for parameters that can't be options.
    """
    constructor = load_target(target) if isinstance(target, str) else target
    parameters = _constructor_parameters(constructor, f"the backbone {name!r} of {owner}")
    contract = ModuleContract(name, constructor, tuple(parameters))
    facts = BackboneFacts(
        order="scan" if "routes" in parameters else "free",
        check=contract.check,
        condition=contract.condition,
        fill=contract.fill,
    )
    options = _options_class(constructor, parameters, f"the backbone {name!r} of {owner}")
    doc = doc or _own_first_line(constructor)
    return target_spec("backbone", name, contract, options=options, facts=facts, owner=owner, doc=doc)


def with_counted_cost(spec: Spec) -> Spec:
    """The spec of a backbone; if it has no cost formula, the cost is counted by PyTorch in the built network."""
    if not isinstance(spec.facts, BackboneFacts) or spec.facts.cost is not None:
        return spec

    def cost(options: Any, **shape: Any) -> Cost:
        counted: Cost = load_target(COUNTED_COST)(spec, options, **shape)
        return counted

    return dataclasses.replace(spec, facts=dataclasses.replace(spec.facts, cost=cost))


@dataclass(frozen=True)
class ModuleContract:
    """The facts and the constructor of a backbone, for a plain module with these parameters."""

    name: str
    constructor: Callable[..., Any]
    parameters: tuple[str, ...]

    def __call__(self, options: Any, *, grid: Any, channels: int, routes: Any, backend: str) -> Any:
        """Wrap the module in the interface that all backbones share."""
        filled = {
            "channels": channels, "height": grid.height * options.patch, "width": grid.width * options.patch,
            "frames": grid.frames, "grid": grid, "routes": routes, "backend": backend,
        }  # fmt: skip
        values = {key: filled[key] if key in filled else getattr(options, key) for key in self.parameters}

        def construct() -> Any:
            return self.constructor(**values)

        return load_target(MODULE_BACKBONE)(construct, name=self.name, condition=self.condition(options))

    def check(self, options: Any, *, grid: Any, routes: Any) -> None:
        """NotReady for clips, unless the constructor has a parameter `frames`."""
        if grid.video and "frames" not in self.parameters:
            raise NotReady(
                f"the backbone {self.name!r} only supports single images", got=f"clips of {grid.frames} frames",
                do="add a parameter `frames` to its constructor",
            )  # fmt: skip

    def condition(self, options: Any) -> Condition | None:
        """Classes or a text, if the constructor has a parameter for their size; else None."""
        if "classes" in self.parameters:
            size = self._size(options.classes, "classes", "the number of classes")
            return Condition("class", size, droppable=bool(getattr(options, "null_class", False)))
        if "text_width" in self.parameters:
            size = self._size(options.text_width, "text_width", "the channels of text features")
            return Condition("text", size, tokens=options.text_tokens or 0)
        return None

    def fill(self, options: Mapping[str, Any], data: DataFacts) -> dict[str, Any]:
        """The sizes of the condition in the data, for options that the suite omits."""
        found: dict[str, Any] = {}
        for condition in data.conditions:
            sizes = {"classes": condition.size} if condition.kind == "class" else _text_sizes(condition)
            found |= {key: size for key, size in sizes.items() if key in options and options[key] is None}
        return {key: size for key, size in found.items() if size}  # 0 means that the size isn't known yet

    def _size(self, size: int | None, option: str, what: str) -> int:
        if size is None:
            raise NotReady(
                f"the backbone {self.name!r} needs {what}, which doesn't follow from the data",
                do=f"use data with a condition, or set the option {option!r} of the backbone",
            )
        return size


def _text_sizes(condition: Condition) -> dict[str, int]:
    return {"text_width": condition.size, "text_tokens": condition.tokens}


def _constructor_parameters(constructor: Any, who: str) -> dict[str, inspect.Parameter]:
    """The parameters of a class or function; UsageError for one that can't be passed by name, or is ambiguous."""
    if not callable(constructor):
        raise UsageError(f"{who} is not a class or a function", got=constructor)
    bare = (
        getattr(_function_with_signature(constructor), "__module__", "") == NN_MODULE
    )  # a class that doesn't define a constructor
    parameters = {} if bare else dict(inspect.signature(constructor).parameters)
    for parameter in parameters.values():
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise UsageError(
                f"{who} has the parameter {str(parameter)!r}", expected="parameters that can be passed by name"
            )
        if parameter.name in (*FILLED, *FROM_DATA) and parameter.default is not parameter.empty:
            raise UsageError(
                f"{who} has a default for {parameter.name!r}, which the framework sets",
                do="remove the default, or rename the parameter if it is an option (the width of the network: dim)",
            )
    if "width" in parameters and "height" not in parameters:
        raise UsageError(
            f"{who} has the parameter 'width' without 'height'", expected="both, the size of an image in pixels",
            do="rename the parameter if it is the width of the network, such as dim",
        )  # fmt: skip
    if "classes" in parameters and "text_width" in parameters:
        raise UsageError(f"{who} has both 'classes' and 'text_width'", expected="one condition")
    return parameters


def _function_with_signature(constructor: Any) -> Any:
    """The function with the signature: the `__init__` of a class, or the function itself."""
    return inspect.getattr_static(constructor, "__init__") if isinstance(constructor, type) else constructor


def _options_class(constructor: Any, parameters: Mapping[str, inspect.Parameter], who: str) -> type:
    """A frozen dataclass of the options; depth and patch are 1 if they aren't options."""
    hints = typing.get_type_hints(_function_with_signature(constructor), include_extras=True) if parameters else {}
    fields: list[Any] = []
    for parameter in parameters.values():
        if parameter.name in FILLED or parameter.name in FROM_DATA:
            continue
        if parameter.name not in hints:
            raise UsageError(f"{who} has the option {parameter.name!r} without a type annotation")
        hint = hints[parameter.name]
        if parameter.name in READ_BY_PLAN and int not in (hint, *typing.get_args(hint)[:1]):
            raise UsageError(f"{who} has an option {parameter.name!r} of another type", expected="int", got=hint)
        more = () if parameter.default is parameter.empty else (dataclasses.field(default=parameter.default),)
        fields.append((parameter.name, hint, *more))
    for option in _options_from_data(parameters):
        fields.append((option, Count | None, dataclasses.field(default=None)))
    ones = {option: 1 for option in READ_BY_PLAN if option not in parameters}
    return dataclasses.make_dataclass("Options", fields, frozen=True, kw_only=True, namespace=ones)


def _options_from_data(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that may follow from the data; the number of tokens only together with the width of a text."""
    if "text_width" in parameters:
        return ("text_width", "text_tokens")
    return tuple(option for option in FROM_DATA if option in parameters)


def _own_first_line(constructor: Any) -> str:
    """The first line of the class's or function's own docstring, not of the one inherited from nn.Module."""
    if not constructor.__doc__:
        raise UsageError(f"{constructor.__name__!r} has no docstring", do="describe it in one line")
    return first_line(constructor)
