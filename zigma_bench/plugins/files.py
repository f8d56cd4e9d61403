"""Single files as plugins: every `*.py` of a folder named by `--plugins DIR` is one, called by its stem.

`--plugins` sets ZIGMA_BENCH_PLUGIN_FOLDER, so that a cell's process finds the same files. The hash of a file's content
stands in its owner, and so in the identity of every record that it had a part in: a changed file is another plugin.
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
    """The words of a command without `--plugins DIR` and `--plugins=DIR`, whose folders are added for this program."""
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
            raise UsageError(f"{OPTION} stands without a folder", expected=f"{OPTION} DIR")
    return rest


def add_folder(folder: str | Path) -> None:
    """Make the files of a folder plugins of this process and of those that it starts."""
    _require(str(folder), OPTION)
    path = os.path.abspath(folder)
    known = [part for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]
    if path not in known:
        os.environ[FOLDERS] = os.pathsep.join([*known, path])


def folders() -> list[Path]:
    """The folders that were named; UsageError for one that is not there."""
    named = [part for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]
    for part in named:
        _require(part, FOLDERS)
    return [Path(os.path.abspath(part)) for part in named]


def _require(path: str, where: str) -> None:
    if not path or not os.path.isdir(path):
        got = "a file" if os.path.isfile(path) else path
        raise UsageError("there is no such folder of plugins", where=where, expected="a folder", got=got)


@dataclass(frozen=True)
class PluginFile:
    """One file of a folder, read once: what is hashed is what runs."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def source(self) -> bytes:
        return self.path.read_bytes()

    @property
    def owner(self) -> str:
        """`columns.py sha256:0123456789ab`; of a file that can't be read, which `load` says, its name alone."""
        try:
            self.source  # noqa: B018
        except OSError:
            return self.path.name
        return f"{self.path.name} sha256:{hashlib.sha256(self.source).hexdigest()[:12]}"

    def load(self) -> ModuleType:
        """The file's module, importable under its stem from now on, as its `"module:attribute"` targets need."""
        self._check_name()
        known = sys.modules.get(self.name)
        if isinstance(known, ModuleType):
            return known  # of this very file: a test may have imported it before
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
                error.filename = error.filename or str(self.path)  # Python names none for null bytes
            raise
        return module

    def _check_name(self) -> None:
        where = str(self.path)
        if not self.name.isidentifier():
            raise UsageError(
                "the file's name is no name of a module", where=where, expected="letters, digits and '_' before .py",
                got=self.path.name, do="rename the file",
            )  # fmt: skip
        taken = _module_file(self.name)
        if taken is not None and not _same(taken, self.path):
            raise UsageError(
                f"the name {self.name!r} is taken by the module {taken}", where=where, do="rename the file"
            )


def plugin_files() -> list[PluginFile]:
    """The files of all folders, in order of name; those that begin with '_' or '.' are no plugins."""
    found = []
    for folder in folders():
        paths = sorted(path for path in folder.glob("*.py") if path.is_file() and path.name[0] not in "_.")
        found += [PluginFile(path) for path in paths]
    return found


class _Loader(importlib.abc.SourceLoader):
    """Runs the bytes that were hashed, and leaves no bytecode beside them."""

    def __init__(self, file: PluginFile) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return str(self.file.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.file.source


def _module_file(name: str) -> str | None:
    """Where the module of a name comes from, if there is one."""
    if name in sys.stdlib_module_names:
        return f"{name} of Python itself"
    known = sys.modules.get(name)
    if known is not None:
        return str(getattr(known, "__file__", None) or f"{name}, already loaded")
    spec = importlib.util.find_spec(name)
    return None if spec is None else str(spec.origin or next(iter(spec.submodule_search_locations or ()), name))


def _same(file: str, path: Path) -> bool:
    return os.path.exists(file) and os.path.samefile(file, path)
