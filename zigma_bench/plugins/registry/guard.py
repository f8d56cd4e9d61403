"""Check the values that a plugin's facts return, and turn their exceptions into errors that name the plugin."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from zigma_bench.errors import BrokenPlugin, UsageError, ZigmaBenchError
from zigma_bench.plugins.registry.costs import Condition, Cost, Missing
from zigma_bench.plugins.registry.facts import (
    BackboneFacts,
    DataFacts,
    DatasetFacts,
    ExecutorFacts,
    ExtractorFacts,
    LearnedScan,
    MergeFacts,
    MetricFacts,
    MixerFacts,
    ReportFormatFacts,
    TransformFacts,
)
from zigma_bench.plugins.registry.specs import Spec
from zigma_bench.system.interrupts import contain_plugin, words_of

FACTS: dict[str, type[Any]] = {
    "scan": LearnedScan,
    "backbone": BackboneFacts,
    "mixer": MixerFacts,
    "merge": MergeFacts,
    "dataset": DatasetFacts,
    "transform": TransformFacts,
    "metric": MetricFacts,
    "extractor": ExtractorFacts,
    "report-format": ReportFormatFacts,
    "executor": ExecutorFacts,
}


def guard_spec(spec: Spec) -> Spec:
    """The spec with facts whose functions raise BrokenPlugin if they fail or return a value of a wrong type.

    Raises UsageError for facts of another kind, and for a field with a value that isn't one of its choices.
    """
    if spec.kind == "scan" and spec.facts is None:
        return spec
    known = FACTS[spec.kind]
    if not isinstance(spec.facts, known):
        raise UsageError(
            f"the facts of {_describe_spec(spec)} are of another kind", expected=f"{known.__name__}(...)",
            got=type(spec.facts).__name__,
        )  # fmt: skip
    _check_choices(spec)
    facts: Any = spec.facts
    fields = {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}
    functions = {name: _guard_function(spec, name, value) for name, value in fields.items() if callable(value)}
    return dataclasses.replace(spec, facts=dataclasses.replace(facts, **functions))


def _describe_spec(spec: Spec) -> str:
    return f"the {spec.kind} {spec.name!r} of {spec.owner}"


def _check_choices(spec: Spec) -> None:
    """Raise UsageError for a field outside its listed values, and unless `smoke` and `sizes` are mappings."""
    for name, annotation in typing.get_type_hints(type(spec.facts)).items():
        value = getattr(spec.facts, name)
        what = f"the facts of {_describe_spec(spec)} have a wrong {name}"
        if typing.get_origin(annotation) is Literal and value not in typing.get_args(annotation):
            raise UsageError(what, expected=" or ".join(map(repr, typing.get_args(annotation))), got=value)
        if name in ("smoke", "sizes") and not isinstance(value, Mapping | None):
            raise UsageError(what, expected="a mapping", got=value)


def _guard_function(spec: Spec, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            with contain_plugin():
                found = function(*arguments, **named)
        except ZigmaBenchError:
            raise
        except Exception as error:  # a plugin may raise anything
            raise BrokenPlugin(
                f"`{name}` of {_describe_spec(spec)} failed with {words_of(error)}", do="fix the plugin"
            ) from error
        fault = PROMISED[name](found) if name in PROMISED else None
        if fault is not None:
            raise BrokenPlugin(
                f"`{name}` of {_describe_spec(spec)} returns a wrong value",
                expected=fault,
                got=found,
                do="fix the plugin",
            )
        return found

    return call


def _type_check(words: str, *types: type) -> Callable[[Any], str | None]:
    return lambda found: None if isinstance(found, types) and not isinstance(found, bool) else words


def _are_counts(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        isinstance(key, str) and type(value) is int and value >= 0 for key, value in found.items()
    )


def _cost_fault(found: Any) -> str | None:
    fits = isinstance(found, Cost) and type(found.parameters) is int and found.parameters >= 0
    fits = fits and _are_counts(found.forward_flops) and (found.parts is None or _are_counts(found.parts))
    return None if fits else "a registry.Cost of whole numbers of at least 0"


def _data_fault(found: Any) -> str | None:
    if not isinstance(found, DataFacts):
        return "a registry.DataFacts"
    sides = (found.channels, found.height, found.width, found.frames)
    if any(type(side) is not int or side < 1 for side in sides):
        return "channels, height, width and frames of at least 1"
    return None if isinstance(found.fingerprint, str) and found.fingerprint else "a fingerprint, a text"


def _missing_fault(found: Any) -> str | None:
    fits = isinstance(found, tuple | list) and all(isinstance(item, Missing) for item in found)
    return None if fits else "a tuple of registry.Missing"


PROMISED: dict[str, Callable[[Any], str | None]] = {
    "cost": _cost_fault,
    "describe": _data_fault,
    "missing": _missing_fault,
    "condition": _type_check("a registry.Condition, or None", Condition, type(None)),
    "memory": lambda found: None if _are_counts(found) else "bytes by operator, whole numbers of at least 0",
    "digest": _type_check("a text", str),
    "fingerprint": _type_check("a text", str),
    "minimum_images": _type_check("a whole number", int),
    "distance_minimum": _type_check("a whole number", int),
    "variant": _type_check("a text, or None", str, type(None)),
    "fill": lambda found: None if isinstance(found, Mapping) else "a mapping of options",
}
