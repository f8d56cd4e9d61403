"""The built-in quality metrics and extractors, registered by the same hooks as a plugin's. Doesn't import torch."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.metrics.clip_metrics import register_clip_metrics
from zigma_bench.metrics.extractors.built_in import register_built_in_extractors
from zigma_bench.metrics.options import ValLossOptions
from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import MetricFacts


@hookimpl
def register_extractors(register: Callable[..., None]) -> None:
    register_built_in_extractors(register)


@hookimpl
def register_metrics(register: Callable[..., None]) -> None:
    register(
        "val-loss",
        "zigma_bench.metrics.val_loss:val_loss",
        options=ValLossOptions,
        facts=MetricFacts(
            unit="1",
            better="lower",
            needs="network",
            of="either",
            minimum_images=lambda options: 1,
            smoke={"images": 64},
        ),
        doc="Mean squared error of the velocity on held-out images, at 8 fixed times with fixed noise",
    )
    register_clip_metrics(register)
