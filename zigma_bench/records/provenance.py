"""Where a record came from: versions, device, threads, times; nothing of it enters an identity."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import time
from typing import Any

from zigma_bench.errors import NotReady
from zigma_bench.plan import Cell
from zigma_bench.system.device import Device, precision_on

LIBRARIES = (
    "zigma-bench", "torch", "numpy", "torch-fidelity", "torchdiffeq", "datasets", "scikit-learn", "pillow", "diffusers",
    "transformers",
)  # fmt: skip


def provenance(cell: Cell, device: Device, started: float) -> dict[str, Any]:
    """Everything about this process that a reader of its record may want to know."""
    import torch

    return {
        "versions": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device.name,
        "card": device.card,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "precision": precision_on(device.type, cell.train.precision),
        "backend": _backend(cell, device),
        "started": started,
        "seconds": time.time() - started,
        "environment": {key: os.environ[key] for key in sorted(os.environ) if key.startswith(("ZIGMA_BENCH_", "OMP_"))},
    }


def _backend(cell: Cell, device: Device) -> str | None:
    """What ran the operators; None where the backend asked for can't run here, which a failed cell's reason says."""
    from zigma_bench.ops.backends import resolve

    try:
        return resolve(cell.backend, device.type)
    except NotReady:
        return None


@functools.cache
def version(name: str) -> str | None:
    """The installed version of a distribution, or None; read once, for each stage's record names ten of them."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
