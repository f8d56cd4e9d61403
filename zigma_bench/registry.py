"""Names and what stands behind them: light specs that list, explain and check options without importing torch."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zigma_bench.errors import NotReady, UnknownName, UsageError, nearest

RESERVED = ("grid", "layer", "depth", "seed")  # what the framework hands to a scan; everything else is an option
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One typed option of a registered name."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def type_text(self) -> str:
        """The type as a reader of a suite would say it, such as `1 | 2 | 4` or `whole number from 1 to 8`."""
        return _type_text(self.annotation)

    def check(self, value: Any, *, where: str) -> Any:
        """The value, if it is of the option's type (strictly: a quoted number is text)."""
        import pydantic

        try:
            checked = pydantic.TypeAdapter(self.annotation).validate_python(value, strict=True)
            if type(checked) is type(value) or (isinstance(checked, float) and type(value) is int):
                return checked  # a Literal takes True for 1, even strictly
        except pydantic.ValidationError:
            pass
        raise UsageError(f"option {self.name!r} has a wrong value", where=where, expected=self.type_text, got=value)


@dataclass(frozen=True)
class Missing:
    """Something that must be present before a plan can run, and how to get it."""

    what: str
    do: str


@dataclass(frozen=True)
class Cost:
    """What a network costs by formula: parameters, and FLOPs of one forward pass of one image by operator.

    One multiply-add is 2 FLOPs. `scan` is the selective scan alone. `parts`: the parameters by operator, under the same
    names; None where a formula does not tell them apart. Costs add up name by name.
    """

    parameters: int
    forward_flops: Mapping[str, int]
    parts: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.parts is not None and sum(self.parts.values()) != self.parameters:
            raise UsageError(
                "the parts of a cost do not add up to its parameters", expected=f"{self.parameters:,}",
                got=sum(self.parts.values()),
            )  # fmt: skip

    @classmethod
    def of(cls, parts: Mapping[str, int], forward_flops: Mapping[str, int]) -> Cost:
        """A cost whose parameters are those of its parts."""
        return cls(sum(parts.values()), forward_flops, parts)

    @property
    def total_flops(self) -> int:
        return sum(self.forward_flops.values())

    def within(self, name: str) -> Cost:
        """The same cost, its parameters under one name where its formula does not tell them apart."""
        return self if self.parts is not None else Cost(self.parameters, self.forward_flops, {name: self.parameters})


def added(costs: Iterable[Cost]) -> Cost:
    """The sum of costs, name by name; its parts are known where those of all are."""
    costs = list(costs)
    known = [cost.parts for cost in costs if cost.parts is not None]
    parts = sum_by_name(known) if len(known) == len(costs) else None
    return Cost(sum(cost.parameters for cost in costs), sum_by_name(cost.forward_flops for cost in costs), parts)


def sum_by_name(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts added up under each name, in the order in which the names first come."""
    found: dict[str, int] = {}
    for mapping in counts:
        for name, count in mapping.items():
            found[name] = found.get(name, 0) + count
    return found


@dataclass(frozen=True)
class Condition:
    """What an image is drawn under: a `class`, one of `size` labels, or a `text`, features of `size` channels.

    `droppable`: whether the network has a label behind the classes, `size`, that stands for none of them; for a text
    the features of an empty one stand. `tokens` of a text: 0 for any number. `masked`: features come with a mask of the
    tokens that count, or, of a network, it takes one.
    """

    kind: Literal["class", "text"]
    size: int
    droppable: bool = field(default=False, compare=False)
    tokens: int = 0
    masked: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        if self.kind == "class":
            return f"{self.size} classes"
        tokens = f"{self.tokens} tokens with " if self.tokens else ""
        return f"text features of {tokens}{self.size or 'unknown'} channels"

    def serves(self, wanted: Condition) -> bool:
        """Whether data that give this suit a network that takes `wanted`; a size or number that is 0 is not known."""
        if self.kind != wanted.kind:
            return False
        if self.kind == "class":
            return self.size == wanted.size
        sizes, tokens = {self.size, wanted.size} - {0}, {self.tokens, wanted.tokens} - {0}
        return len(sizes) <= 1 and len(tokens) <= 1 and (wanted.masked or not self.masked)


@dataclass(frozen=True)
class BackboneFacts:
    """What a plan must know of a backbone without building it.

    `order`: `scan` (the order of tokens matters) or `free` (one cell, whatever the scans).
    `default_scan`: the scan that it takes when a suite names none.
    `sizes`: named sizes to option values. `cost(options, grid=, channels=, routes=) -> Cost`.
    `check(options, grid=, routes=)` raises NotReady for a geometry that does not fit.
    `smoke`: the option values of a toy. `condition(options)`: what the network is given as y beside x and t, or None.
    `kept(options, grid=, channels=, routes=, backend=, precision=)`: bytes that a training step keeps of one image, by
    operator, for a resolved backend and fp32 or bf16; without it nobody knows.
    """

    order: Literal["scan", "free"]
    cost: Callable[..., Cost]
    default_scan: str | None = None
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[..., None] | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)
    condition: Callable[[Any], Condition | None] = lambda options: None
    kept: Callable[..., Mapping[str, int]] | None = None


@dataclass(frozen=True)
class MixerFacts:
    """What a plan must know of a mixer without building it.

    `cost(options, block=, grid=, route=) -> Cost` of one layer. `check(options, block=, grid=, route=)` raises NotReady
    for a route that the mixer can't follow; without it the mixer must follow any. `kept(options, block=, grid=, route=,
    backend=, precision=)`: the bytes that a training step keeps of one layer and image, by operator.
    """

    cost: Callable[..., Cost]
    check: Callable[..., None] | None = None
    kept: Callable[..., Mapping[str, int]] | None = None


@dataclass(frozen=True)
class LearnedScan:
    """A scan whose order a module makes of each sample's features: `paths` of them in a layer.

    `cost(options, width=, grid=) -> Cost` of the module in one layer. `check(options, grid=)` raises NotReady for a
    geometry that does not fit.
    """

    cost: Callable[..., Cost]
    paths: int = 1
    check: Callable[..., None] | None = None

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise UsageError("a learned scan has at least one path a layer", got=self.paths)


@dataclass(frozen=True)
class DataFacts:
    """What a plan must know of a resolved data source without decoding an image.

    `held_out`: the number of validation images, where the options or the source tell it; None where only loading does.
    `conditions`: what it gives beside each image that a network can be conditioned on. `captions`: whether a text is
    beside each image, which becomes a condition where the suite names an encoder.
    `frames`: of a clip; its images are those of [n, T, C, H, W].
    """

    channels: int
    height: int
    width: int
    fingerprint: str
    missing: tuple[Missing, ...] = ()
    held_out: int | None = None
    conditions: tuple[Condition, ...] = ()
    captions: bool = False
    frames: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, [C, H, W], or of one clip, [T, C, H, W]."""
        image = (self.channels, self.height, self.width)
        return image if self.frames == 1 else (self.frames, *image)


@dataclass(frozen=True)
class DatasetFacts:
    """`describe(options) -> DataFacts` looks at files but decodes none.

    `smoke`: the option values of a toy of few pixels that needs no file; without it a smoke run takes the `toy`, an
    embedded data set, in its place.
    `check`: `"module:function"` that gives the parts of a check of all files (data/check.py); without it a check takes
    every image of what the data set loads.
    """

    describe: Callable[[Any], DataFacts]
    smoke: Mapping[str, Any] | None = None
    toy: str = "digits"
    check: str | None = None


@dataclass(frozen=True)
class TransformFacts:
    """What a plan must know of a transform without taking an image.

    `check(options, channels=, height=, width=)` raises NotReady for images that it can't take. `digest(options,
    channels=, height=, width=)`: what the pixels depend on beyond the options, such as a permutation that was drawn; it
    stands in the record and in the fingerprint of the images. `smoke`: the option values of a toy of 8 x 8 pixels.
    """

    check: Callable[..., None] | None = None
    digest: Callable[..., str] = lambda options, **shape: ""
    smoke: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricFacts:
    """What a plan must know of a metric.

    `smoke`: the option values of a toy. `of`: what it measures: single `images`, the `frames` of clips, whole `clips`,
    or `either` images or clips. `needs`: `samples` (images against a reference) or `network` (the trained network on
    held-out images).
    `missing(options) -> tuple[Missing, ...]`; `minimum_images`: fewer are refused. `fingerprint(options)`: what the
    figure depends on beyond its options, such as the hash of a weights file; it enters the quality stage's identity.
    `beside`: metrics that a suite must list with it, since it can't be read alone. `compares`: False for a figure of
    the samples alone, which no reference enters.
    """

    unit: str
    better: Literal["lower", "higher"]
    needs: Literal["samples", "network"]
    missing: Callable[[Any], tuple[Missing, ...]] = lambda options: ()
    minimum_images: Callable[[Any], int] = lambda options: 2
    fingerprint: Callable[[Any], str] = lambda options: ""
    of: Literal["images", "frames", "clips", "either"] = "images"
    smoke: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    compares: bool = True


@dataclass(frozen=True)
class Spec:
    """A registered name: its owner, one line about it, typed options, the target, and facts of its kind."""

    kind: str
    name: str
    owner: str
    doc: str
    options: tuple[Option, ...]
    target: str | Callable[..., Any]
    options_class: type | None = None
    facts: Any = None

    def load(self) -> Callable[..., Any]:
        """The target itself, imported now."""
        if not isinstance(self.target, str):
            return self.target
        try:
            return load_target(self.target)
        except (ImportError, AttributeError) as error:
            raise NotReady(
                f"{self.kind} {self.name!r} of {self.owner} can't be loaded from {self.target!r}: {error}"
            ) from error

    def resolve(self, given: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """All options with defaults filled in and every given value checked; sorted by name."""
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                raise UsageError(
                    f"{self.kind} {self.name!r} has no option {name!r}",
                    where=where,
                    expected=f"one of {', '.join(sorted(known)) or '(it has none)'}",
                    nearest=nearest(str(name), known),
                )
        values = {}
        for name, option in sorted(known.items()):
            if name in given:
                values[name] = option.check(given[name], where=where)
            elif option.required:
                raise UsageError(
                    f"{self.kind} {self.name!r} needs the option {name!r}", where=where, expected=option.type_text
                )
            else:
                values[name] = option.default
        return values

    def make_options(self, values: Mapping[str, Any]) -> Any:
        """The options as the frozen dataclass that the target takes."""
        assert self.options_class is not None, f"{self.kind} {self.name} takes no options class"
        return self.options_class(**values)


def load_target(target: str) -> Callable[..., Any]:
    """What a text such as `module:function` names, imported now; ImportError or AttributeError where that can't be."""
    module, _, attribute = target.partition(":")
    return typing.cast(Callable[..., Any], getattr(importlib.import_module(module), attribute))


class Registry:
    """All specs of one kind, by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._specs: dict[str, Spec] = {}

    def add(self, spec: Spec) -> None:
        if (other := self._specs.get(spec.name)) is not None:
            raise UsageError(f"the {self.kind} {spec.name!r} of {spec.owner} is already registered by {other.owner}")
        self._specs[spec.name] = spec

    def get(self, name: str, *, where: str | None = None) -> Spec:
        if name not in self._specs:
            raise UnknownName(self.kind, name, self._specs, where=where)
        return self._specs[name]

    def __iter__(self) -> Iterator[Spec]:
        return iter(sorted(self._specs.values(), key=lambda spec: spec.name))

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def __len__(self) -> int:
        return len(self._specs)


def scan_spec(name: str, function: Callable[..., Any], *, owner: str, doc: str | None = None) -> Spec:
    """The spec of a scan: keyword-only parameters of the function are its options."""
    hints = typing.get_type_hints(function, include_extras=True)
    options = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.name in RESERVED:
                raise UsageError(
                    f"scan {name!r} of {owner} has the reserved name {parameter.name!r} as an option",
                    do="make it an ordinary argument",
                )
            if parameter.name not in hints:
                raise UsageError(f"option {parameter.name!r} of scan {name!r} of {owner} has no type annotation")
            options.append(Option(parameter.name, hints[parameter.name], parameter.default))
        elif parameter.name not in RESERVED:
            raise UsageError(
                f"scan {name!r} of {owner} takes an argument {parameter.name!r}",
                expected=f"only {', '.join(RESERVED)} before the *, and options after it",
            )
    return Spec("scan", name, owner, doc or _first_line(function), tuple(options), function)


def target_spec(
    kind: str,
    name: str,
    target: str | Callable[..., Any],
    *,
    options: type,
    facts: Any,
    owner: str,
    doc: str | None = None,
) -> Spec:
    """The spec of what has a target: the fields of its frozen options dataclass are its options."""
    import dataclasses

    hints = typing.get_type_hints(options, include_extras=True)
    if kind == "dataset" and "transforms" in hints:
        raise UsageError(
            f"dataset {name!r} of {owner} has the reserved name 'transforms' as an option", do="give it another name"
        )
    found = []
    for item in dataclasses.fields(options):
        default = REQUIRED if item.default is dataclasses.MISSING else item.default
        found.append(Option(item.name, hints[item.name], default))
    found.sort(key=lambda option: not option.required)  # those without a default first, whatever they inherit
    return Spec(kind, name, owner, doc or _first_line(options), tuple(found), target, options, facts)


def _first_line(documented: Any) -> str:
    doc = inspect.getdoc(documented)
    if not doc:
        raise UsageError(
            f"{getattr(documented, '__name__', documented)!r} has no docstring", do="say in one line what it is"
        )
    return doc.splitlines()[0]


def _type_text(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is typing.Annotated:
        limits = {
            key: value
            for item in arguments[1:]
            for key in ("ge", "gt", "le", "lt")
            if (value := getattr(item, key, None)) is not None
        }
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        if "ge" in limits and "le" in limits:
            return f"{_type_text(arguments[0])} from {limits['ge']} to {limits['le']}"
        return " ".join([_type_text(arguments[0]), *(f"{words[key]} {value}" for key, value in limits.items())])
    if origin is dict:
        return "mapping"
    if arguments:
        inner = [_type_text(item) for item in arguments if item is not Ellipsis]
        return " | ".join(inner) if origin is not list and origin is not tuple else f"list of {', '.join(inner)}"
    names = {
        int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null", dict: "mapping",
    }  # fmt: skip
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


__all__ = [
    "BackboneFacts", "Condition", "Cost", "DataFacts", "DatasetFacts", "LearnedScan", "MetricFacts", "Missing",
    "MixerFacts", "Option", "Registry", "Spec", "TransformFacts", "added", "load_target", "scan_spec",
    "sum_by_name", "target_spec",
]  # fmt: skip
