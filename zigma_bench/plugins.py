"""Finds plugins, loads them one by one, and sets the broken aside by name.

Built-ins come first and through the same hooks; then every entry point of the group `zigma_bench`, in order of name.
`ZIGMA_BENCH_PLUGINS=a,b` narrows to those entry points; empty loads none. A plugin that fails while it is imported or
registers adds nothing at all, and stands in `Catalogue.problems` with the reason.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pluggy

from zigma_bench import hookspecs
from zigma_bench.errors import NotReady, UnknownName, UsageError, nearest
from zigma_bench.registry import Registry, Spec, scan_spec, target_spec

BUILTIN_MODULES = ("zigma_bench.scans", "zigma_bench.models", "zigma_bench.data", "zigma_bench.metrics")
HOOKS = {
    "register_scans": "scan",
    "register_backbones": "backbone",
    "register_mixers": "mixer",
    "register_datasets": "dataset",
    "register_metrics": "metric",
}


@dataclass(frozen=True)
class PluginInfo:
    """A loaded plugin: the entry point's name, the distribution and version it comes from, and what it registered."""

    name: str
    owner: str
    registered: tuple[str, ...]


@dataclass(frozen=True)
class PluginProblem:
    """A plugin set aside: its name, where it comes from, the reason in a line, and the traceback."""

    name: str
    owner: str
    reason: str
    details: str


@dataclass
class Catalogue:
    """All registries of one process, the plugins behind them, and the plugins set aside."""

    scans: Registry = field(default_factory=lambda: Registry("scan"))
    backbones: Registry = field(default_factory=lambda: Registry("backbone"))
    mixers: Registry = field(default_factory=lambda: Registry("mixer"))
    datasets: Registry = field(default_factory=lambda: Registry("dataset"))
    metrics: Registry = field(default_factory=lambda: Registry("metric"))
    plugins: list[PluginInfo] = field(default_factory=list)
    problems: list[PluginProblem] = field(default_factory=list)

    def registry(self, kind: str) -> Registry:
        registry: Registry = getattr(self, f"{kind}s")
        return registry

    def get(self, kind: str, name: str, *, where: str | None = None) -> Spec:
        """The spec of a name; an unknown name says which plugins were set aside, if any."""
        try:
            return self.registry(kind).get(name, where=where)
        except UnknownName as error:
            if self.problems:
                error.do = "set aside: " + "; ".join(f"{p.name} ({p.owner}): {p.reason}" for p in self.problems)
            raise


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue of this process, loaded once."""
    found = Catalogue()
    for module in BUILTIN_MODULES:
        _add(found, module.rpartition(".")[2], "zigma-bench", functools.partial(importlib.import_module, module))
    if found.problems:  # a broken built-in is a broken installation, not a plugin to do without
        raise NotReady(f"a part of zigma-bench itself can't be loaded: {found.problems[0].details}")
    for entry in _entry_points():
        owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
        _add(found, entry.name, owner, entry.load)
    for problem in found.problems:
        print(f"zigma-bench: plugin {problem.name} ({problem.owner}) set aside: {problem.reason}", file=sys.stderr)
    return found


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    found = sorted(importlib.metadata.entry_points(group=hookspecs.PROJECT), key=lambda entry: entry.name)
    narrowed = os.environ.get("ZIGMA_BENCH_PLUGINS")
    if narrowed is None:
        return found
    wanted = [name.strip() for name in narrowed.split(",") if name.strip()]
    names = {entry.name for entry in found}
    for name in wanted:
        if name not in names:
            raise UnknownName("plugin", name, names, where="ZIGMA_BENCH_PLUGINS")
    return [entry for entry in found if entry.name in wanted]


def _add(found: Catalogue, name: str, owner: str, load: Callable[[], Any]) -> None:
    """Load one plugin and take what it registers, all or nothing."""
    try:
        specs = _specs_of(load(), name, owner)
        for index, spec in enumerate(specs):
            registry = found.registry(spec.kind)
            if spec.name in registry:
                registry.add(spec)  # raises, naming both owners
            if any(spec.kind == other.kind and spec.name == other.name for other in specs[:index]):
                raise UsageError(f"{owner} registers the {spec.kind} {spec.name!r} twice")
    except Exception as error:  # a plugin may raise anything; it must not take the program down
        reason = str(error) or type(error).__name__
        if not isinstance(error, UsageError):
            reason = f"{type(error).__name__}: {reason}"
        found.problems.append(PluginProblem(name, owner, reason, traceback.format_exc()))
        return
    for spec in specs:
        found.registry(spec.kind).add(spec)
    found.plugins.append(PluginInfo(name, owner, tuple(f"{spec.kind} {spec.name}" for spec in specs)))


def _specs_of(plugin: ModuleType, name: str, owner: str) -> list[Spec]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    marked = [key for key in vars(plugin) if manager.parse_hookimpl_opts(plugin, key) is not None]
    for key in marked:
        if key not in HOOKS:
            raise UsageError(
                f"{key!r} is no hook of zigma-bench", expected=f"one of {', '.join(HOOKS)}", nearest=nearest(key, HOOKS)
            )
    if not marked:
        raise UsageError(f"the plugin has no function marked with zigma_bench.hookimpl; hooks: {', '.join(HOOKS)}")
    specs: list[Spec] = []
    for hook in marked:
        kind = HOOKS[hook]

        def register(name: str, target: Any, *, kind: str = kind, **rest: Any) -> None:
            _check_name(kind, name, owner)
            plain = kind == "scan" and not isinstance(target, str)  # a learned scan has a target, as all else has
            make = scan_spec if plain else functools.partial(target_spec, kind)
            specs.append(make(name, target, owner=owner, **rest))

        getattr(plugin, hook)(register)
    return specs


def _check_name(kind: str, name: str, owner: str) -> None:
    if not name or name[0] == "." or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise UsageError(f"{owner} gives a {kind} the name {name!r}", expected="letters, digits, '.', '_' and '-' only")
