"""The measures of clips, registered beside those of images: their frames as images, and FVD; no torch here."""

from __future__ import annotations

import functools
from collections.abc import Callable

from zigma_bench.metrics import i3d_weights, weights
from zigma_bench.metrics.names import EFFLITES
from zigma_bench.metrics.options import EffliteOptions, I3dOptions, InceptionOptions
from zigma_bench.plugins.registry import MetricFacts

KID_MINIMUM = 4  # as for images
EFFLITE_SMOKE = {"size": 64}  # of a toy


def register_clip_metrics(register: Callable[..., None]) -> None:
    """`frame-` before a metric of images is that metric on all frames of all clips."""
    facts = functools.partial(MetricFacts, unit="1", better="lower", needs="samples", of="frames")
    inception = functools.partial(facts, missing=weights.inception_missing, fingerprint=weights.inception_fingerprint)
    for family in EFFLITES:
        efflite = functools.partial(
            facts, missing=functools.partial(weights.efflite_missing, family), smoke=EFFLITE_SMOKE
        )
        register(
            f"frame-fd-{family}",
            f"zigma_bench.metrics.clips:frame_fd_{family}",
            options=EffliteOptions,
            facts=efflite(),
            doc=f"Frechet distance on EfficientNet-Lite{family[-1]} features of single frames; blind to motion",
        )
        register(
            f"frame-kid-{family}",
            f"zigma_bench.metrics.clips:frame_kid_{family}",
            options=EffliteOptions,
            facts=efflite(minimum_images=lambda options: KID_MINIMUM),
            doc=f"Kernel distance on EfficientNet-Lite{family[-1]} features of single frames; blind to motion",
        )
    register(
        "frame-fid",
        "zigma_bench.metrics.clips:frame_fid",
        options=InceptionOptions,
        facts=inception(minimum_images=weights.fid_minimum, beside=("frame-kid",)),
        doc="FID of single frames; other weights give frame-fd-inception-<sha8>",
    )
    register(
        "frame-kid",
        "zigma_bench.metrics.clips:frame_kid",
        options=InceptionOptions,
        facts=inception(minimum_images=lambda options: KID_MINIMUM),
        doc="KID of single frames; other weights give frame-kid-inception-<sha8>",
    )
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
        doc="Frechet distance on I3D features of clips (Unterthiner 2018); other files give fd-i3d-<sha8>",
    )
