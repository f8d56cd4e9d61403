"""Single files as plugins: every `*.py` in a folder of `--plugins DIR` is a plugin, named after the file.

`--plugins` sets ZIGMA_BENCH_PLUGIN_FOLDER, so that the process of a cell finds the same files. The owner of such a
plugin contains the hash of the file's content and is part of the identity of every record that depends on the plugin.
So a changed file counts as another plugin.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from zigma_bench.errors import UsageError

FOLDERS = "ZIGMA_BENCH_PLUGIN_FOLDER"
OPTION = "--plugins"


def take_option(words: Sequence[str]) -> list[str]:
    """Remove `--plugins DIR` and `--plugins=DIR` from the words of a command, and add these plugin folders."""
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return [*rest, word, *left]
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
        elif equals or left:
            add_folder(value if equals else left.pop(0))
        else:
            raise UsageError(f"{OPTION} needs a folder", expected=f"{OPTION} DIR")
    return rest


def add_folder(folder: str | Path) -> None:
    """Make the files of a folder plugins of this process and of its child processes."""
    _require_folder(str(folder), OPTION)
    path = os.path.abspath(folder)
    known = [part for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]
    if path not in known:
        os.environ[FOLDERS] = os.pathsep.join([*known, path])


def folders() -> list[Path]:
    """The plugin folders; UsageError for one that doesn't exist."""
    named = [part for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]
    for part in named:
        _require_folder(part, FOLDERS)
    return [Path(os.path.abspath(part)) for part in named]


def _require_folder(path: str, where: str) -> None:
    if not path or not os.path.isdir(path):
        got = "a file" if os.path.isfile(path) else path
        raise UsageError("there is no such folder of plugins", where=where, expected="a folder", got=got)


@dataclass(frozen=True)
class PluginFile:
    """A plugin file. It is read only once, so the hashed content is the content that runs."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def source(self) -> bytes:
        return self.path.read_bytes()

    @property
    def owner(self) -> str:
        """`columns.py sha256:0123456789ab`; only the name of an unreadable file, which `load` reports."""
        try:
            self.source  # noqa: B018
        except OSError:
            return self.path.name
        return f"{self.path.name} sha256:{hashlib.sha256(self.source).hexdigest()[:12]}"

    def load(self) -> ModuleType:
        """Import the file as a module under its stem, by which its `"module:attribute"` targets name it."""
        self._check_name()
        known = sys.modules.get(self.name)
        if isinstance(known, ModuleType):
            return known  # the module of this file, which a test may have imported before
        spec = importlib.util.spec_from_loader(self.name, _Loader(self), origin=str(self.path))
        assert spec is not None and spec.loader is not None
        spec.has_location = True
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[self.name]
            if isinstance(error, SyntaxError):
                error.filename = error.filename or str(self.path)  # Python names no file for null bytes
            raise
        return module

    def _check_name(self) -> None:
        where = str(self.path)
        if not self.name.isidentifier():
            raise UsageError(
                "the file name is not a valid module name", where=where, expected="letters, digits and '_' before .py",
                got=self.path.name, do="rename the file",
            )  # fmt: skip
        taken = _module_file(self.name)
        if taken is not None and not _is_same_file(taken, self.path):
            raise UsageError(
                f"the name {self.name!r} is taken by the module {taken}", where=where, do="rename the file"
            )


def plugin_files() -> list[PluginFile]:
    """The plugin files of all folders, sorted by name, except files whose names start with '_' or '.'."""
    found = []
    for folder in folders():
        paths = sorted(path for path in folder.glob("*.py") if path.is_file() and path.name[0] not in "_.")
        found += [PluginFile(path) for path in paths]
    return found


class _Loader(importlib.abc.SourceLoader):
    """Runs the hashed bytes, and writes no bytecode file next to them."""

    def __init__(self, file: PluginFile) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return str(self.file.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.file.source


def _module_file(name: str) -> str | None:
    """Where the module of a name comes from; None if no module has this name."""
    if name in sys.stdlib_module_names:
        return f"{name} of Python itself"
    known = sys.modules.get(name)
    if known is not None:
        return str(getattr(known, "__file__", None) or f"{name}, already loaded")
    spec = importlib.util.find_spec(name)
    return None if spec is None else str(spec.origin or next(iter(spec.submodule_search_locations or ()), name))


def _is_same_file(file: str, path: Path) -> bool:
    return os.path.exists(file) and os.path.samefile(file, path)
