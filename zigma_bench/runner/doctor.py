"""What this installation has and lacks, found without importing torch."""

from __future__ import annotations

import platform
from typing import Any

from zigma_bench import __version__
from zigma_bench.device import nvidia_cards, processor
from zigma_bench.ops.backends import available
from zigma_bench.plugins import catalogue
from zigma_bench.provenance import LIBRARIES, version

MORE_LIBRARIES = ("torchvision", "pydantic", "typer", "pandas", "safetensors", "mamba-ssm", "causal-conv1d", "triton")


def examine() -> dict[str, dict[str, Any]]:
    """Versions, devices, kernels, metrics (with the weights that they lack) and plugins."""
    found = catalogue()
    kernels = {name: reason or "ready" for name, reason in available().items()}
    versions = {name: version(name) or "not installed" for name in (*LIBRARIES[1:], *MORE_LIBRARIES)}
    metrics = {}
    for spec in found.metrics:
        missing = spec.facts.missing(spec.make_options(spec.resolve({}, where="doctor")))
        metrics[spec.name] = "; ".join(f"{item.what}: {item.do}" for item in missing) or "ready"
    aside = {f"{p.name} ({p.owner})": f"SET ASIDE: {p.reason}" for p in found.problems}
    plugins = {f"{p.name} ({p.owner})": ", ".join(p.registered) for p in found.plugins}
    return {
        "zigma-bench": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "libraries": versions,
        "devices": {"cpu": processor(), **{f"cuda:{i}": name for i, name in enumerate(nvidia_cards())}},
        "kernels": kernels,
        "metrics": metrics,
        "plugins": {**plugins, **aside},
    }
