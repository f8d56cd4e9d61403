"""The official constructor's arguments from a file and from settings laid over it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zigma_bench.errors import UsageError
from zigma_bench.suite import parse_value, parse_yaml


def read_config(path: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """Arguments by name; UsageError for a file that is no mapping, and for a setting that is not KEY=VALUE."""
    found = {} if path is None else _read(path)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError("this is no setting", where=f"--set {setting}", expected="KEY=VALUE, such as depth=12")
        found[key] = parse_value(value, f"--set {setting}")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the config can't be read: {error}", where=str(path)) from None
    except ValueError as error:
        raise UsageError(f"this is no JSON: {error}", where=str(path)) from None
    if path.suffix != ".json":
        return parse_yaml(text, str(path), what="config", keys="depth and patch_size")[0]
    if not isinstance(found, dict):
        raise UsageError("the config is no mapping", where=str(path), expected="keys such as depth and patch_size")
    return found
