"""`plugins new`: write the folder of a new plugin, with working code and passing tests.

The templates are in `plugins/templates/`: `common` has the files of all kinds, and each kind has its own folder. In the
files, {{name}} is the plugin's name, {{package}} its package and {{dist}} its distribution. In the paths, `package` is
replaced by its package.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from zigma_bench import __version__
from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.plugins import TEMPLATES
from zigma_bench.plugins.discovery import catalogue

REGISTERED_AS = {"learned-scan": "scan"}  # a learned scan has its own templates
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
SUFFIX = ".tmpl"


def write_plugin(name: str, kind: str, parent: Path) -> Path:
    """Write `parent/zigma-bench-NAME` and return its path; on failure, nothing is left behind."""
    if kind not in TEMPLATES:
        raise UnknownName("kind of plugin", kind, TEMPLATES, where="--kind")
    _check_name(name, kind)
    folder = parent / f"zigma-bench-{name}"
    if folder.exists():
        raise UsageError("the folder already exists", where=str(folder), do="choose another name or another --dir")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new-plugin-", dir=parent))
        try:
            _write_files(temporary, placeholders(name), kind)
            temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can read
            os.rename(temporary, folder)  # fails if another process has created the folder meanwhile
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise NotReady(f"the folder can't be written: {error}", where=str(folder)) from None
    return folder


def placeholders(name: str) -> dict[str, str]:
    """The values of the placeholders in the templates."""
    package = "zigma_bench_" + re.sub(r"[._-]+", "_", name).lower()
    return {"name": name, "package": package, "dist": f"zigma-bench-{name}", "version": __version__}


def _check_name(name: str, kind: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            "this can't be the name of a plugin", got=name,
            expected="letters, digits, '.', '_' and '-', starting and ending with a letter or a digit",
        )  # fmt: skip
    kind = REGISTERED_AS.get(kind, kind)
    registry = catalogue().registry(kind)
    if name in registry:
        owner = registry.get(name).owner
        raise UsageError(f"the {kind} {name!r} is already registered by {owner}", do="choose another name")


def _write_files(folder: Path, values: dict[str, str], kind: str) -> None:
    templates = resources.files("zigma_bench.plugins") / "templates"
    for part in ("common", kind):
        for path, text in _template_files(templates / part, ""):
            target = folder / path.replace("package", values["package"]).removesuffix(SUFFIX)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_fill_placeholders(text, values), encoding="utf-8")


def _template_files(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    """(path, text) of every template below a folder."""
    found = []
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            found += _template_files(item, f"{prefix}{item.name}/")
        elif item.name.endswith(SUFFIX):
            found.append((prefix + item.name, item.read_text(encoding="utf-8")))
    return found


def _fill_placeholders(text: str, values: dict[str, str]) -> str:
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    assert "{{" not in text, text
    return text
