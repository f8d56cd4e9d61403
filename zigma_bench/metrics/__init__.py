"""The built-in measures of quality, registered by the same hook as a plugin's; this page imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from zigma_bench.metrics import weights
from zigma_bench.metrics.clip_metrics import EFFLITE_SMOKE, register_clip_metrics
from zigma_bench.metrics.names import FAMILIES, OF_ALL, Family, Kind, metric_name
from zigma_bench.metrics.options import (
    ClipOptions,
    Dinov2Options,
    EffliteOptions,
    InceptionOptions,
    ValLossOptions,
)
from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import MetricFacts, Missing

if TYPE_CHECKING:
    from zigma_bench.metrics.subject import Subject
    from zigma_bench.records.record import Measurement

KID_MINIMUM = 4  # subsets of half the smaller set, and an unbiased estimate needs two images in each
COVER_MINIMUM = 6  # a fifth neighbour, and the image itself
SCORE_MINIMUM = 10  # the Inception score is taken of ten parts
NETWORKS: dict[Family, str] = {
    "inception": "Inception v3", "efflite0": "EfficientNet-Lite0", "efflite2": "EfficientNet-Lite2",
    "dinov2": "DINOv2 ViT-L/14", "clip": "CLIP ViT-B/32",
}  # fmt: skip
DIMENSIONS: dict[Family, int] = {"inception": 2048, "efflite0": 1280, "efflite2": 1280, "dinov2": 1024, "clip": 512}
OPTIONS: dict[Family, type] = {
    "inception": InceptionOptions, "efflite0": EffliteOptions, "efflite2": EffliteOptions,
    "dinov2": Dinov2Options, "clip": ClipOptions,
}  # fmt: skip
MISSING: dict[Family, Callable[[Any], tuple[Missing, ...]]] = {
    "inception": weights.inception_missing,
    "efflite0": functools.partial(weights.efflite_missing, "efflite0"),
    "efflite2": functools.partial(weights.efflite_missing, "efflite2"),
    "dinov2": weights.dinov2_missing,
    "clip": functools.partial(weights.weights_missing, "clip"),
}
WHAT: dict[Kind, tuple[str, Literal["lower", "higher"]]] = {
    "fd": ("Frechet distance", "lower"),
    "fd-infinity": ("Frechet distance extrapolated to infinitely many samples (Chong 2020)", "lower"),
    "kid": ("Kernel distance (Binkowski 2018)", "lower"),
    "precision": ("Share of samples in the reference's 3-neighbour balls (Kynkaanniemi 2019)", "higher"),
    "recall": ("Share of the reference in the samples' 3-neighbour balls (Kynkaanniemi 2019)", "higher"),
    "density": ("Mean number of the reference's 5-neighbour balls around a sample, over 5 (Naeem 2020)", "higher"),
    "coverage": ("Share of the reference's 5-neighbour balls with a sample in them (Naeem 2020)", "higher"),
    "is": ("Inception score, of the samples alone (Salimans 2016)", "higher"),
}


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
    for family in FAMILIES:
        for kind in (*OF_ALL, "is") if family == "inception" else OF_ALL:
            register(
                metric_name(kind, family),
                functools.partial(_measured, kind, family),
                options=OPTIONS[family],
                facts=_facts(kind, family),
                doc=f"{WHAT[kind][0]} on {NETWORKS[family]} features",
            )
    register_clip_metrics(register)


def _measured(kind: Kind, family: Family, options: Any, subject: Subject) -> Measurement:
    from zigma_bench.metrics.measure import measured

    return measured(kind, family, options, subject)


def _facts(kind: Kind, family: Family) -> MetricFacts:
    facts = MetricFacts(
        unit="1", better=WHAT[kind][1], needs="samples", missing=MISSING[family],
        minimum_images=_minimum(kind, family), compares=kind != "is",
    )  # fmt: skip
    if family == "efflite0" or family == "efflite2":
        return replace(facts, smoke=EFFLITE_SMOKE)
    beside = ("kid",) if (kind, family) == ("fd", "inception") else ()
    return replace(facts, fingerprint=functools.partial(weights.weights_fingerprint, family), beside=beside)


def _minimum(kind: Kind, family: Family) -> Callable[[Any], int]:
    if kind == "fd":
        return weights.fid_minimum if family == "inception" else lambda options: 2
    least = {"fd-infinity": 2 * DIMENSIONS[family], "kid": KID_MINIMUM, "is": SCORE_MINIMUM}.get(kind, COVER_MINIMUM)
    return lambda options: least
