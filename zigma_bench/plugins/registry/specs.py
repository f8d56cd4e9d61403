"""Specs of registered names: they list, explain and check options without importing torch."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zigma_bench.errors import NotReady, UnknownName, UsageError, ZigmaBenchError, names_near, nearest
from zigma_bench.system.interrupts import contain_plugin, words_of

RESERVED = ("grid", "layer", "depth", "seed")  # arguments that the framework passes to a scan; all others are options
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
        """The type in words, such as `1 | 2 | 4` or `whole number from 1 to 8`."""
        return _type_text(self.annotation)

    def check(self, value: Any, *, where: str) -> Any:
        """The value; UsageError if it isn't of the option's type (a quoted number is text)."""
        import pydantic

        adapter = pydantic.TypeAdapter(self.annotation)  # raises pydantic's errors for an invalid type
        try:
            with contain_plugin():  # a plugin's validator may raise anything
                checked = adapter.validate_python(value, strict=True)
            if type(checked) is type(value) or (isinstance(checked, float) and type(value) is int):
                return checked  # a Literal accepts True as 1, even in strict mode
        except pydantic.ValidationError:
            pass
        except Exception as error:
            raise UsageError(
                f"option {self.name!r} can't be checked: its type raises {words_of(error)}", where=where, got=value,
                do="use another value, or fix the option's validator",
            ) from error  # fmt: skip
        raise UsageError(f"option {self.name!r} has a wrong value", where=where, expected=self.type_text, got=value)


@dataclass(frozen=True)
class Spec:
    """A registered name: its owner, a line of documentation, typed options, the target, and the facts of its kind.

    `comes_with`: the name with which this one was registered: for a metric of an extractor, the extractor.
    """

    kind: str
    name: str
    owner: str
    doc: str
    options: tuple[Option, ...]
    target: str | Callable[..., Any]
    options_class: type | None = None
    facts: Any = None
    comes_with: str | None = None

    def load(self) -> Callable[..., Any]:
        """Import the target and return it."""
        if not isinstance(self.target, str):
            return self.target
        try:
            with contain_plugin():
                target = load_target(self.target)
        except Exception as error:  # importing runs a plugin's code, which may raise anything
            reason = str(error) if isinstance(error, ImportError | AttributeError) else words_of(error)
            raise NotReady(
                f"{self.kind} {self.name!r} of {self.owner} can't be loaded from {self.target!r}: {reason}"
            ) from error
        if not callable(target):
            raise NotReady(
                f"{self.kind} {self.name!r} of {self.owner} can't be loaded from {self.target!r}",
                expected="a class or a function", got=target,
            )  # fmt: skip
        return target

    def resolve(self, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """All options sorted by name: the checked `values`, and defaults for the others."""
        known = {option.name: option for option in self.options}
        for name in values:
            if name not in known:
                raise UsageError(
                    f"{self.kind} {self.name!r} has no option {name!r}",
                    where=where,
                    expected=f"one of {names_near(str(name), sorted(known)) or '(it has none)'}",
                    nearest=nearest(str(name), known),
                )
        found = {}
        for name, option in sorted(known.items()):
            if name in values:
                found[name] = option.check(values[name], where=where)
            elif option.required:
                raise UsageError(
                    f"{self.kind} {self.name!r} needs the option {name!r}", where=where, expected=option.type_text
                )
            else:
                found[name] = option.default
        return found

    def make_options(self, values: Mapping[str, Any]) -> Any:
        """The options as an instance of the frozen dataclass that the target expects."""
        assert self.options_class is not None, f"{self.kind} {self.name} has no options class"
        try:
            with contain_plugin():
                return self.options_class(**values)
        except ZigmaBenchError:
            raise
        except Exception as error:  # from a plugin's `__post_init__`
            raise UsageError(
                f"the options of {self.kind} {self.name!r} of {self.owner} are refused with {words_of(error)}",
                got=dict(values), do="use other values, or fix the plugin",
            ) from error  # fmt: skip


def load_target(target: str) -> Callable[..., Any]:
    """Import the object that a text such as `module:function` names; ImportError or AttributeError if that fails."""
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

    @contextlib.contextmanager
    def holding(self, specs: Iterable[Spec]) -> Iterator[None]:
        """A context in which the registry also contains these specs, except those with a name that is taken."""
        before = dict(self._specs)
        self._specs |= {spec.name: spec for spec in specs if spec.name not in before}
        try:
            yield
        finally:
            self._specs = before

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
                f"scan {name!r} of {owner} has an argument {parameter.name!r}",
                expected=f"only {', '.join(RESERVED)} before the *, and options after it",
            )
    return Spec("scan", name, owner, doc or first_line(function), tuple(options), function)


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
    """The spec of a name with a target; its options are the fields of the frozen options dataclass."""
    import dataclasses

    hints = typing.get_type_hints(options, include_extras=True)
    if kind == "dataset" and "transforms" in hints:
        raise UsageError(f"dataset {name!r} of {owner} has the reserved name 'transforms' as an option", do="rename it")
    found = []
    for item in dataclasses.fields(options):
        default = REQUIRED if item.default is dataclasses.MISSING else item.default
        found.append(Option(item.name, hints[item.name], default))
    found.sort(
        key=lambda option: not option.required
    )  # required options come first, even if inherited ones have defaults
    return Spec(kind, name, owner, doc or first_line(options), tuple(found), target, options, facts)


def merge_spec(name: str, target: str | Callable[..., Any], *, facts: Any, owner: str, doc: str) -> Spec:
    """The spec of a merge, which has no options: a route names it, and `doc` is the line that lists show."""
    return Spec("merge", name, owner, doc, (), target, None, facts)


def format_spec(
    name: str,
    target: str | Callable[..., Any],
    *,
    owner: str,
    facts: Any,
    doc: str | None = None,
) -> Spec:
    """The spec of a report format, a function without options."""
    if isinstance(target, str) and doc is None:
        raise UsageError(
            f"the report format {name!r} of {owner} has no doc",
            do="pass `doc=`, or pass the function instead of its name",
        )
    return Spec("report-format", name, owner, doc or first_line(target), (), target, facts=facts)


def first_line(documented: Any) -> str:
    doc = inspect.getdoc(documented)
    if not doc:
        raise UsageError(
            f"{getattr(documented, '__name__', documented)!r} has no docstring", do="describe it in one line"
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
