"""Find the spec of a name, and the sets of options to check it with."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

from zigma_bench.errors import UnknownName
from zigma_bench.plugins.registry import Option, Spec
from zigma_bench.testing.report import CheckFailed


class NeedsOptions(AssertionError):
    """An option has no default and no listed values, so the check needs a value for it."""


def find_spec(kind: str, wanted: str | Spec, plugin: ModuleType | None) -> Spec:
    """The spec itself, or the one of this name: from a plugin's module, or from all registered ones."""
    if isinstance(wanted, Spec):
        return wanted
    if plugin is None:
        from zigma_bench.plugins.discovery import catalogue

        return catalogue().get(kind, wanted)
    found = {spec.name: spec for spec in specs_of_module(plugin) if spec.kind == kind}
    if wanted not in found:
        raise UnknownName(kind, wanted, found, where=plugin.__name__)
    return found[wanted]


def specs_of_module(plugin: ModuleType) -> list[Spec]:
    """Everything that a plugin's module registers, installed or not."""
    from zigma_bench.plugins.discovery import specs_of

    return specs_of(plugin, plugin.__name__, f"module {plugin.__name__}")


@contextlib.contextmanager
def as_registered(specs: Sequence[Spec]) -> Iterator[None]:
    """A context in which the objects of a plugin that isn't installed are found by name, such as the merge of its
    scan."""
    from zigma_bench.plugins.discovery import catalogue

    with contextlib.ExitStack() as stack:
        for kind in {spec.kind for spec in specs}:
            added = [spec for spec in specs if spec.kind == kind]
            stack.enter_context(catalogue().registry(kind).holding(added))
        yield


def required_values(spec: Spec, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`options`, with the first listed value of each other option that has no default."""
    values = dict(options or {})
    for option in spec.options:
        if option.required and option.name not in values and (listed := option_choices(option)):
            values[option.name] = listed[0]
    missing = [option.name for option in spec.options if option.required and option.name not in values]
    if missing:
        raise NeedsOptions(
            f"{spec.kind} {spec.name!r}: expected `options=` with values for {', '.join(missing)}, got none"
        )
    return values


def option_sets(
    spec: Spec, options: Mapping[str, Any] | None = None, *, ranges: bool = True, where: str | None = None
) -> list[dict[str, Any]]:
    """Sets of options: first `options` over the defaults; then, for one option at a time, each choice and end of a
    range."""
    where = where or f"check_{spec.kind}"
    base = required_values(spec, options)
    sets = [spec.resolve(base, where=where)]
    for option in spec.options:
        for value in option_choices(option, ranges=ranges):
            values = spec.resolve({**base, option.name: value}, where=where)
            if values not in sets:
                sets.append(values)
    return sets


def option_choices(option: Option, *, ranges: bool = True) -> list[Any]:
    """The listed values of an option: those of a Literal, both of a bool, the ends of a range of integers."""
    origin, arguments = typing.get_origin(option.annotation), typing.get_args(option.annotation)
    if origin is Literal:
        return list(arguments)
    if option.annotation is bool:
        return [False, True]
    if ranges and origin is typing.Annotated and arguments[0] is int:
        ends = [getattr(item, end, None) for item in arguments[1:] for end in ("ge", "le")]
        return [end for end in ends if end is not None]
    return []


def check_options(spec: Spec) -> str:
    """Check that every default has the type of its option."""
    for option in spec.options:
        if not option.required:
            option.check(option.default, where=f"the default of {option.name!r}")
    return ", ".join(f"{option.name}: {option.type_text}" for option in spec.options) or "no options"


def planning_module(spec: Spec, plugin: ModuleType | None = None) -> str:
    """The module that a plan imports for a spec, which must not need torch."""
    if plugin is not None:
        return plugin.__name__
    if spec.kind == "merge":
        return str(spec.facts.cost.__module__)
    if isinstance(spec.target, str):
        assert spec.options_class is not None
        return spec.options_class.__module__
    return str(getattr(spec.target, "__module__", ""))


def imports_without_torch(name: str) -> str:
    """Import a module in a fresh process without torch. Code from a prompt or notebook has no file and isn't
    checked."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or name == "__main__":
        return f"{name or 'a function'} is not in a file"
    if (trace := _torch_import(name, file, tuple(sys.path))) is not None:
        raise CheckFailed(f"module {name} does not:\n{trace}")
    return f"{name} does"


IMPORT = """
import importlib, sys
from importlib.util import module_from_spec, spec_from_file_location
name, file, *sys.path = {arguments!r}
sys.modules["torch"] = None
try:
    importlib.import_module(name)
except ModuleNotFoundError as error:
    if not f"{{name}}.".startswith(f"{{error.name}}."):
        raise
    spec = spec_from_file_location(name, file)  # such as a test module, which pytest imports by file
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
"""


@functools.cache
def _torch_import(name: str, file: str, path: tuple[str, ...]) -> str | None:
    """The traceback of importing a module in a fresh process without torch, or None if it imports."""
    code = IMPORT.format(arguments=[name, file, *path])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stderr if done.returncode else None
