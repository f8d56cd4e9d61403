"""Find plugins and load them one by one; a broken plugin is set aside and doesn't stop the program.

The built-ins are loaded first, through the same hooks; then every entry point of the group `zigma_bench`, then every
file in the folders of `--plugins`, sorted by name. `ZIGMA_BENCH_PLUGINS=a,b` loads only the plugins of these names; an
empty value loads none. A plugin that fails when it is imported or registered adds nothing. `Catalogue.problems` lists
it with the place, the reason and what to do.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pluggy

from zigma_bench.errors import BrokenPlugin, NotReady, UnknownName, UsageError, ZigmaBenchError, nearest, system_fault
from zigma_bench.escaping import visible
from zigma_bench.plugins import hookspecs
from zigma_bench.plugins.files import plugin_files
from zigma_bench.plugins.places import code_place_of
from zigma_bench.plugins.registry import (
    Option,
    Registry,
    ReportFormatFacts,
    Spec,
    format_spec,
    guard_spec,
    load_target,
    merge_spec,
    module_spec,
    scan_spec,
    target_spec,
    with_counted_cost,
)
from zigma_bench.system.interrupts import Escaped, contain_plugin, words_of

BUILTIN = "zigma-bench"
BUILTIN_MODULES = tuple(
    f"zigma_bench.{name}" for name in ("scans", "backbones", "mixers", "data", "metrics", "reports", "run.executors")
)
HOOKS = {
    "register_scans": "scan",
    "register_backbones": "backbone",
    "register_mixers": "mixer",
    "register_merges": "merge",
    "register_datasets": "dataset",
    "register_transforms": "transform",
    "register_metrics": "metric",
    "register_extractors": "extractor",
    "register_report_formats": "report-format",
    "register_executors": "executor",
}
# For a kind, the function that returns the specs registered together with each of its names. It is named by text,
# because its package is above this one, as those of the built-ins are.
TOGETHER = {"extractor": "zigma_bench.metrics.on_features:metrics_on"}


@dataclass(frozen=True)
class PluginInfo:
    """A loaded plugin: its name, its owner (the distribution and version, or the file), and what it registered.

    `registered` contains texts `kind name`; `module` is the module of its hooks.
    """

    name: str
    owner: str
    registered: tuple[str, ...]
    module: str = ""


@dataclass(frozen=True)
class PluginProblem:
    """A plugin set aside: its name, its owner, the reason in one line (with place and remedy), the traceback."""

    name: str
    owner: str
    reason: str
    details: str


@dataclass
class Catalogue:
    """All registries of one process, the loaded plugins, and the plugins set aside."""

    scans: Registry = field(default_factory=lambda: Registry("scan"))
    backbones: Registry = field(default_factory=lambda: Registry("backbone"))
    mixers: Registry = field(default_factory=lambda: Registry("mixer"))
    merges: Registry = field(default_factory=lambda: Registry("merge"))
    datasets: Registry = field(default_factory=lambda: Registry("dataset"))
    transforms: Registry = field(default_factory=lambda: Registry("transform"))
    metrics: Registry = field(default_factory=lambda: Registry("metric"))
    extractors: Registry = field(default_factory=lambda: Registry("extractor"))
    report_formats: Registry = field(default_factory=lambda: Registry("report-format"))
    executors: Registry = field(default_factory=lambda: Registry("executor"))
    plugins: list[PluginInfo] = field(default_factory=list)
    problems: list[PluginProblem] = field(default_factory=list)

    def registry(self, kind: str) -> Registry:
        registry: Registry = getattr(self, f"{kind.replace('-', '_')}s")
        return registry

    def get(self, kind: str, name: str, *, where: str | None = None) -> Spec:
        """The spec of a name; the error for an unknown name lists the plugins set aside, if any."""
        try:
            return self.registry(kind).get(name, where=where)
        except UnknownName as error:
            if self.problems:
                error.do = "set aside: " + "; ".join(f"{p.name} ({p.owner}): {p.reason}" for p in self.problems)
            raise


_loading: list[
    Catalogue
] = []  # the catalogue while plugins are loaded, because their modules may already construct routes


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue of this process, loaded once."""
    found = Catalogue()
    _loading.append(found)
    try:
        _load_plugins(found)
    finally:
        _loading.remove(found)
    for problem in found.problems:
        print(f"zigma-bench: plugin {problem.name} ({problem.owner}) set aside: {problem.reason}", file=sys.stderr)
    return found


def find_spec(kind: str, name: str) -> Spec:
    """The spec of a name; while plugins are being loaded, only names registered so far are known."""
    return (_loading[-1] if _loading else catalogue()).get(kind, name)


def _load_plugins(found: Catalogue) -> None:
    """Add the built-ins, then every selected plugin."""
    for module in BUILTIN_MODULES:
        _add(found, module.rpartition(".")[2], BUILTIN, functools.partial(importlib.import_module, module))
    if found.problems:  # a broken built-in means a broken installation
        raise NotReady(f"a part of zigma-bench itself can't be loaded: {found.problems[0].details}")
    for candidate in _select_candidates(_find_candidates()):
        _add(found, candidate.name, candidate.owner, candidate.load)


def place_in_plugins(error: BaseException) -> str | None:
    """`FILE:LINE` of the plugin's code that an error came from; None if it came from no plugin."""
    return code_place_of(error, _plugin_files())


def broken_plugin(error: BaseException) -> BrokenPlugin | None:
    """The BrokenPlugin error if a plugin's code raised the exception; else None.

    For SystemExit only its own frames count, because a command also ends with SystemExit after it reported an error
    of a plugin.
    """
    place = code_place_of(error, _plugin_files(), alone=isinstance(error, SystemExit))
    if place is None:
        return None
    return BrokenPlugin(f"a plugin failed with {words_of(error)}", where=place, do="fix the plugin")


def reason_of(error: BaseException) -> str:
    """An exception in one line: the text of our own errors, the type and text of others, and the plugin's line."""
    fault = system_fault(error)
    text = visible(words_of(error)) if fault is None else str(fault)
    place = place_in_plugins(error)
    return f"{text} (raised at {place})" if place else text


def _plugin_files() -> list[str]:
    """The files of all imported modules from which plugins registered something."""
    if not catalogue.cache_info().currsize:
        return []
    found = catalogue()
    names = {plugin.module for plugin in found.plugins if plugin.owner != BUILTIN}
    for kind in HOOKS.values():
        specs = [spec for spec in found.registry(kind) if spec.owner != BUILTIN]
        names |= {spec.target.partition(":")[0] for spec in specs if isinstance(spec.target, str)}
    files = [getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)]
    return [file for file in files if file]


@dataclass(frozen=True)
class _Candidate:
    """A plugin that can be loaded."""

    name: str
    owner: str
    load: Callable[[], Any]


def _find_candidates() -> list[_Candidate]:
    found = []
    for entry in sorted(importlib.metadata.entry_points(group=hookspecs.PROJECT), key=lambda entry: entry.name):
        owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
        found.append(_Candidate(entry.name, owner, entry.load))
    return found + [_Candidate(file.name, file.owner, file.load) for file in plugin_files()]


def _select_candidates(found: list[_Candidate]) -> list[_Candidate]:
    """All plugins, or those that ZIGMA_BENCH_PLUGINS names."""
    narrowed = os.environ.get("ZIGMA_BENCH_PLUGINS")
    if narrowed is None:
        return found
    wanted = [name.strip() for name in narrowed.split(",") if name.strip()]
    names = {candidate.name for candidate in found}
    for name in wanted:
        if name not in names:
            raise UnknownName("plugin", name, names, where="ZIGMA_BENCH_PLUGINS")
    return [candidate for candidate in found if candidate.name in wanted]


def _add(found: Catalogue, name: str, owner: str, load: Callable[[], Any]) -> None:
    """Load one plugin and add everything that it registers, or nothing if it fails."""
    plugin: Any = None
    try:
        with contain_plugin():
            plugin = load()
            specs = specs_of(plugin, name, owner)
        for spec in specs:
            registry = found.registry(spec.kind)
            if spec.name in registry:
                registry.add(spec)  # raises, naming both owners
    except Exception as error:  # a plugin may raise anything, and must not end the program
        found.problems.append(PluginProblem(name, owner, _describe_failure(error, plugin), traceback.format_exc()))
        return
    for spec in specs:
        found.registry(spec.kind).add(spec)
    registered = tuple(f"{spec.kind} {spec.name}" for spec in specs)
    found.plugins.append(PluginInfo(name, owner, registered, getattr(plugin, "__name__", "")))


def _describe_failure(error: BaseException, plugin: Any) -> str:
    """Where and how the plugin failed, and what to do, in one line."""
    place = code_place_of(error) or getattr(plugin, "__file__", None)
    if isinstance(error, ZigmaBenchError):
        error.do = error.do or "fix the plugin"
        return str(error.at(place) if place else error)
    if isinstance(error, SyntaxError):
        text, do = f"{type(error).__name__}: {error.msg}", "fix the line"
    elif isinstance(error, Escaped) and isinstance(error.__cause__, SystemExit | KeyboardInterrupt):
        text, do = words_of(error), "remove the call that ends the program from the plugin"
    else:
        text = words_of(error)
        imports = isinstance(error, ImportError)
        do = "install what it imports, or fix the import" if imports else "fix the plugin"
    return f"{place}: {text}; {do}" if place else f"{text}; {do}"


def specs_of(plugin: Any, name: str, owner: str) -> list[Spec]:
    """The checked specs of everything that a module's hooks register; nothing is added to the catalogue."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    marked = [key for key in vars(plugin) if manager.parse_hookimpl_opts(plugin, key) is not None]
    _check_hooks(plugin, marked)
    manager.register(plugin, name)
    specs: list[Spec] = []
    for hook in marked:
        kind = HOOKS[hook]

        def register(name: str, target: Any, *, kind: str = kind, **rest: Any) -> None:
            _check_name(kind, name, owner)
            spec = _make_spec(kind, name, target, owner=owner, **rest)
            for option in spec.options:
                _check_default(spec, option)
            spec = with_counted_cost(spec)
            spec = spec if owner == BUILTIN else guard_spec(spec)
            for added in (spec, *_companion_specs(spec)):
                if any((other.kind, other.name) == (added.kind, added.name) for other in specs):
                    raise UsageError(
                        f"{owner} registers the {added.kind} {added.name!r} twice", do="remove one of them"
                    )
                specs.append(added)

        getattr(plugin, hook)(register)
    return specs


def _make_spec(kind: str, name: str, target: Any, **rest: Any) -> Spec:
    """The spec of a registered name; the options of a plain function or module are its parameters."""
    if kind == "scan" and not isinstance(target, str):  # a learned scan has a target instead, like most kinds
        return scan_spec(name, target, **rest)
    if kind == "merge":
        return merge_spec(name, target, **rest)
    if kind == "backbone" and not {"options", "facts"} & rest.keys():
        return module_spec(name, target, **rest)
    if kind == "report-format":
        return format_spec(name, target, **{"facts": ReportFormatFacts(), **rest})
    return target_spec(kind, name, target, **rest)


def _companion_specs(spec: Spec) -> Sequence[Spec]:
    """The specs registered together with a name: the metrics of an extractor."""
    if spec.kind not in TOGETHER:
        return ()
    found: Sequence[Spec] = load_target(TOGETHER[spec.kind])(spec)
    return found


def _check_hooks(plugin: Any, marked: list[str]) -> None:
    """Raise UsageError for a marked function that isn't a hook, and for a function named like a hook but not marked."""
    for key in marked:
        if key not in HOOKS:
            known = f"one of {', '.join(HOOKS)}"
            place = _line_of(getattr(plugin, key))
            raise UsageError(
                f"{key!r} is not a hook of zigma-bench",
                where=place,
                expected=known,
                nearest=nearest(key, HOOKS),
                do="rename the function",
            )
    for key in HOOKS:
        if key in vars(plugin) and key not in marked:
            raise UsageError(
                f"{key!r} is not marked as a hook",
                where=_line_of(getattr(plugin, key)),
                do="put @zigma_bench.hookimpl above it",
            )
    if not marked:
        raise UsageError(
            "the plugin has no function marked with zigma_bench.hookimpl", expected=f"one of {', '.join(HOOKS)}"
        )


def _line_of(function: Any) -> str | None:
    code = getattr(function, "__code__", None)
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _check_name(kind: str, name: str, owner: str) -> None:
    if not name or name[0] == "." or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise UsageError(f"{owner} gives a {kind} the name {name!r}", expected="letters, digits, '.', '_' and '-' only")


def _check_default(spec: Spec, option: Option) -> None:
    """Raise UsageError for a default that a suite couldn't set or a record couldn't contain."""
    what = f"option {option.name!r} of {spec.kind} {spec.name!r} of {spec.owner}"
    if option.required or spec.owner == BUILTIN:
        return
    try:
        option.check(option.default, where=what)
        json.dumps(option.default, allow_nan=False)
    except UsageError:
        raise UsageError(
            f"the default of {what} is not of its type", expected=option.type_text, got=option.default
        ) from None
    except Exception as error:  # from pydantic for a type that it can't check, or from json for an unsupported value
        known = "whole number, number, text, true or false, a Literal, or a list of them"
        raise UsageError(
            f"{what} has a type that a suite can't express ({type(error).__name__})",
            expected=known,
            got=option.type_text,
        ) from None
