"""The built-in measures of quality, registered by the same hook as a plugin's; this page imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable

from zigma_bench.hookspecs import hookimpl
from zigma_bench.metrics import weights
from zigma_bench.metrics.clip_metrics import register_clip_metrics
from zigma_bench.metrics.options import Efflite0Options, InceptionOptions, ValLossOptions
from zigma_bench.registry import MetricFacts

KID_MINIMUM = 4  # subsets of half the smaller set, and an unbiased estimate needs two images in each


@hookimpl
def register_metrics(register: Callable[..., None]) -> None:
    facts = functools.partial(MetricFacts, unit="1", better="lower", needs="samples")
    efflite0 = functools.partial(facts, missing=weights.efflite0_missing)
    inception = functools.partial(facts, missing=weights.inception_missing, fingerprint=weights.inception_fingerprint)
    register(
        "val-loss",
        "zigma_bench.metrics.val_loss:val_loss",
        options=ValLossOptions,
        facts=facts(needs="network", of="either", minimum_images=lambda options: 1, smoke={"images": 64}),
        doc="Mean squared error of the velocity on held-out images, at 8 fixed times with fixed noise",
    )
    register(
        "fd-efflite0",
        "zigma_bench.metrics.measure:fd_efflite0",
        options=Efflite0Options,
        facts=efflite0(minimum_images=lambda options: 2),
        doc="Frechet distance on EfficientNet-Lite0 features; not comparable with FID",
    )
    register(
        "kid-efflite0",
        "zigma_bench.metrics.measure:kid_efflite0",
        options=Efflite0Options,
        facts=efflite0(minimum_images=lambda options: KID_MINIMUM),
        doc="Kernel distance on EfficientNet-Lite0 features; not comparable with KID",
    )
    register(
        "fid",
        "zigma_bench.metrics.measure:fid",
        options=InceptionOptions,
        facts=inception(minimum_images=weights.fid_minimum),
        doc="Frechet distance on Inception v3 features (Heusel 2017); other weights give fd-inception-<sha8>",
    )
    register(
        "kid",
        "zigma_bench.metrics.measure:kid_inception",
        options=InceptionOptions,
        facts=inception(minimum_images=lambda options: KID_MINIMUM),
        doc="Kernel distance on Inception v3 features (Binkowski 2018); other weights give kid-inception-<sha8>",
    )
    register_clip_metrics(register)
