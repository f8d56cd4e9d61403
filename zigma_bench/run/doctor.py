"""Examine this installation: what is available and what is missing. Doesn't import torch."""

from __future__ import annotations

import platform
from typing import Any

from zigma_bench import __version__
from zigma_bench.ops.backends import available
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Spec
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.records.provenance import LIBRARIES, version
from zigma_bench.system.device import gpu_names, processor_name

MORE_LIBRARIES = ("torchvision", "pydantic", "typer", "pandas", "safetensors", "mamba-ssm", "causal-conv1d", "triton")


def examine_installation() -> dict[str, dict[str, Any]]:
    """Versions, devices, kernels, text encoders, mixers, metrics (with their missing weights) and plugins."""
    found = catalogue()
    kernels = {name: reason or "ready" for name, reason in available().items()}
    versions = {name: version(name) or "not installed" for name in (*LIBRARIES[1:], *MORE_LIBRARIES)}
    metrics = {}
    for spec in found.metrics:
        metrics[spec.name] = _state(spec)
    problems = {f"{p.name} ({p.owner})": f"SET ASIDE: {p.reason}" for p in found.problems}
    plugins = {f"{p.name} ({p.owner})": ", ".join(p.registered) for p in found.plugins}
    return {
        "zigma-bench": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "libraries": versions,
        "devices": {"cpu": processor_name(), **{f"cuda:{i}": name for i, name in enumerate(gpu_names())}},
        "kernels": kernels,
        "text encoders": {name: _encoder(name) for name in (encoders.MINILM, encoders.RANDOM_WORDS)},
        "mixers": {spec.name: f"{spec.doc} ({spec.owner})" for spec in found.mixers},
        "metrics": metrics,
        "plugins": {**plugins, **problems},
    }


def _encoder(name: str) -> str:
    """The missing files of a built-in text encoder, or `ready`."""
    missing = encoders.describe_encoder(name, None).missing
    return "; ".join(f"{item.what}: {item.do}" for item in missing) or "ready"


def _state(spec: Spec) -> str:
    """The missing files of a metric with its default options, or `ready`. Metrics with required options name these."""
    if needed := [option.name for option in spec.options if option.required]:
        return f"needs {', '.join(needed)} in a suite"
    try:
        missing = spec.facts.missing(spec.make_options(spec.resolve({}, where="doctor")))
        return "; ".join(f"{item.what}: {item.do}" for item in missing) or "ready"
    except Exception as error:  # a plugin may raise anything, and the doctor must report it
        return f"FAILED: {type(error).__name__}: {error}"
