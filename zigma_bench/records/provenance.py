"""Where a record came from: the code, the plugins, the machine and the command; no part of an identity.

`run_provenance` is computed once per command, in the process that starts the workers, and every record of the command
has it. Of the environment it only contains the variables ZIGMA_BENCH_* and OMP_*, so that no secret is stored.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused
from zigma_bench.system.device import Device, gpu_facts
from zigma_bench.system.json_files import check_finite, parse_json, read_text

LIBRARIES = (
    "zigma-bench", "torch", "numpy", "torch-fidelity", "torchdiffeq", "datasets", "scikit-learn", "pillow", "diffusers",
    "transformers", "scipy", "triton", "torchvision",
)  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]
GIT_SECONDS = 20.0
CHANGED = ("diff", "HEAD", "--name-only", "--no-renames", "--relative", "-z", "--", ".")
UNTRACKED = ("ls-files", "--others", "--exclude-standard", "-z", "--", ".")


@functools.cache
def version(name: str) -> str | None:
    """The installed version of a distribution, or None; cached, because each record names all of them."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def software() -> dict[str, Any]:
    """The versions, Python, platform and environment variables of this process."""
    return {
        "versions": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "environment": {key: os.environ[key] for key in sorted(os.environ) if key.startswith(("ZIGMA_BENCH_", "OMP_"))},
    }


def run_provenance(
    device: Device, *, executor: str = "local", plugins: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Where the records of a command come from.

    `executor`: where its cells run. `plugins`: the loaded plugins with the hashes of their files
    (`plugins.origins.plugin_origins`).
    """
    return {
        **software(), "source": source_state(PACKAGE), "plugins": [dict(plugin) for plugin in plugins],
        "command": list(sys.argv), "host": socket.gethostname(), "executor": executor, "device": device.name,
        "card": device.model_name, **gpu_facts(device),
    }  # fmt: skip


def read_starts(spec: Path, identity: str) -> list[dict[str, Any]]:
    """When and on which host a stage with this identity was started, from its spec.json; empty before its first start.

    A broken file counts as no start, because the file is written before everything else and may be incomplete.
    """
    try:
        held = parse_json(read_text(spec))
        starts = [dict(start) for start in held.get("starts", ())] if held["identity"] == identity else []
        check_finite(starts)
    except (FileNotFoundError, ComparisonRefused, ValueError, KeyError, TypeError, AttributeError):
        return []
    return starts


def source_state(folder: Path) -> dict[str, Any] | None:
    """The git commit of a package's folder, and the sha256 of what differs from it; None if git doesn't track it.

    `changes_sha256` covers the names and contents of the folder's files that differ from the commit or that git doesn't
    track (ignored files excepted); it is None without any.
    """
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    if not _git(folder, "ls-files", "--", "__init__.py"):  # installed inside the checkout of another project
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.decode().strip(), "changes_sha256": _changes_sha256(folder)}


def _changes_sha256(folder: Path) -> str | None:
    """The sha256 of the names and contents of the changed and untracked files in a folder; None without any."""
    listed = b"".join(_git(folder, *words) or b"" for words in (CHANGED, UNTRACKED))
    names = sorted({name for name in listed.split(b"\0") if name})
    if not names:
        return None
    digest = hashlib.sha256()
    for name in names:
        path = folder / os.fsdecode(name)
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "deleted"
        digest.update(name + b"\0" + content.encode() + b"\0")
    return digest.hexdigest()


def _git(folder: Path, *words: str) -> bytes | None:
    """What a git command prints; None if git is missing or fails. Variables such as GIT_DIR don't redirect it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-c", "core.quotePath=false", "-c", "safe.directory=*", *words]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
