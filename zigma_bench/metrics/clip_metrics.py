"""The metrics of whole clips. Metrics of their frames come with the extractors. Doesn't import torch."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.metrics.extractors import i3d_weights
from zigma_bench.metrics.options import I3dOptions
from zigma_bench.plugins.registry import MetricFacts


def register_clip_metrics(register: Callable[..., None]) -> None:
    register(
        "fvd",
        "zigma_bench.metrics.clips:fvd",
        options=I3dOptions,
        facts=MetricFacts(
            unit="1",
            better="lower",
            needs="samples",
            of="clips",
            missing=i3d_weights.i3d_missing,
            fingerprint=i3d_weights.i3d_fingerprint,
            minimum_images=i3d_weights.fvd_minimum,
        ),
        doc="Frechet distance on I3D features of clips (Unterthiner 2018); with another file: fd-i3d-<sha8>",
    )
