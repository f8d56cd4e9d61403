"""Read the arguments of an official constructor from a file and from KEY=VALUE settings, which take precedence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zigma_bench.errors import UsageError
from zigma_bench.suite import parse_value, parse_yaml


def read_config(path: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """The arguments by name. UsageError if the file is not a mapping or a setting is not KEY=VALUE."""
    found = {} if path is None else _read(path)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError("not a KEY=VALUE setting", where=f"--set {setting}", expected="such as depth=12")
        found[key] = parse_value(value, f"--set {setting}")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the config can't be read: {error}", where=str(path)) from None
    except ValueError as error:
        raise UsageError(f"not valid JSON: {error}", where=str(path)) from None
    if path.suffix != ".json":
        return parse_yaml(text, str(path), what="config", keys="depth and patch_size")[0]
    if not isinstance(found, dict):
        raise UsageError("the config is not a mapping", where=str(path), expected="keys such as depth and patch_size")
    return found
