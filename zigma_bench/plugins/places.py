"""Where in a plugin's own code an exception came from: the file and line that its author can fix."""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection
from pathlib import Path

OURS = Path(__file__).resolve().parents[1]
PYTHON = Path(os.__file__).resolve().parent
INSTALLED = ("site-packages", "dist-packages")  # folders inside PYTHON that aren't part of Python


def code_place_of(error: BaseException, within: Collection[str] | None = None, *, alone: bool = False) -> str | None:
    """`FILE:LINE` of the deepest frame of a plugin that an exception passed through, or None if there is no such frame.

    If the framework raised the exception because of an exception from a plugin, that cause counts too, unless `alone`.
    `within`: the files of the plugins' modules; without it, the first file that is neither ours, nor pluggy's, nor
    Python's.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = None if alone else cause.__cause__ or cause.__context__
    for found in reversed(chain):
        if (place := _unreadable_line(found, within) or _deepest_frame(found, within)) is not None:
            return place
    return None


def _unreadable_line(error: BaseException, within: Collection[str] | None) -> str | None:
    """The line of a plugin with a syntax error, for which there is no frame."""
    if not isinstance(error, SyntaxError) or not error.filename:
        return None
    if within is not None and not any(Path(error.filename).is_relative_to(_package_or_file(file)) for file in within):
        return None
    return f"{_relative_path(error.filename)}:{error.lineno}" if error.lineno else _relative_path(error.filename)


def _deepest_frame(error: BaseException, within: Collection[str] | None) -> str | None:
    """The deepest frame in the plugin's own files; an error from numpy is located where the plugin called numpy."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[:1] not in ("", "<")]
    if within is None:
        first = next((frame for frame in frames if not _is_framework_file(frame.filename)), None)
        owned = set() if first is None else {_package_or_file(first.filename)}
    else:
        owned = {_package_or_file(file) for file in within}
    for frame in reversed(frames):
        if any(Path(frame.filename).is_relative_to(own) for own in owned):
            return f"{_relative_path(frame.filename)}:{frame.lineno}"
    return None


def _is_framework_file(filename: str) -> bool:
    """Whether a file belongs to zigma-bench, pluggy or Python."""
    path = Path(filename).resolve()
    python = path.is_relative_to(PYTHON) and not any(name in path.parts for name in INSTALLED)
    return python or path.is_relative_to(OURS) or path.parent.name == "pluggy"


def _package_or_file(filename: str) -> Path:
    """The code by the same author as a file: its package, or only the file."""
    path = Path(filename)
    return path.parent if (path.parent / "__init__.py").exists() else path


def _relative_path(filename: str) -> str:
    """The path relative to the current folder, if the file is below it."""
    path = os.path.abspath(filename)
    here = os.getcwd()
    return os.path.relpath(path, here) if path.startswith(here + os.sep) else path
