"""The loaded plugins with the sha256 of their files, for the provenance of records. Doesn't import torch."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from zigma_bench.plugins.discovery import BUILTIN, PluginInfo, catalogue

CODE = (".py", ".so", ".cpp", ".cu", ".cuh", ".h")  # the files of a plugin that its results can depend on
MOST_FILES = 1000


def plugin_origins() -> list[dict[str, Any]]:
    """Each loaded plugin: its name, its owner (a distribution with its version, or a file), and its files' sha256.

    A plugin in a package has all code of the package, by paths relative to it.
    """
    return [_describe(plugin) for plugin in catalogue().plugins if plugin.owner != BUILTIN]


def _describe(plugin: PluginInfo) -> dict[str, Any]:
    return {"name": plugin.name, "owner": plugin.owner, "sha256": _hashes(plugin.module)}


def _hashes(module: str) -> dict[str, str]:
    """The sha256 of the files of a module's package, or of the module's file."""
    root = sys.modules.get(module.partition(".")[0])
    folders = [Path(folder) for folder in getattr(root, "__path__", ())]
    if folders:
        files = [(path, str(path.relative_to(folder))) for folder in folders for path in sorted(folder.rglob("*"))]
    else:
        file = getattr(root, "__file__", None)
        files = [] if file is None else [(Path(file), os.path.basename(file))]
    code = [(path, name) for path, name in files if path.suffix in CODE and path.is_file()]
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for path, name in code[:MOST_FILES]}
