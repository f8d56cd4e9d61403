"""Where a record came from: library versions and this process's environment; no part of an identity."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from typing import Any

LIBRARIES = (
    "zigma-bench", "torch", "numpy", "torch-fidelity", "torchdiffeq", "datasets", "scikit-learn", "pillow", "diffusers",
    "transformers",
)  # fmt: skip


@functools.cache
def version(name: str) -> str | None:
    """The installed version of a distribution, or None; cached, because each record names ten distributions."""
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
