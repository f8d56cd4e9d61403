"""The metrics on features, and their names for each registered extractor. This module doesn't import torch.

The names `fid`, `kid`, `is`, `precision` ... are only used for Inception v3 with the published weights. Metrics on
other extractors are called `fd-efflite0`, `precision-dinov2` ... For other weights, the start of their sha256 is added.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zigma_bench.plugins.registry import ExtractorFacts, MetricFacts, Spec

if TYPE_CHECKING:
    from zigma_bench.metrics.subject import Subject
    from zigma_bench.records.record import Measurement

KID_MINIMUM = 4  # subsets are half of the smaller set, and an unbiased estimate needs two images in each
COVER_MINIMUM = 6  # the image itself and five neighbours
SCORE_MINIMUM = 10  # the Inception score uses ten parts
INFINITY, FRAME = "-infinity", "frame-"
MODULE = "zigma_bench.metrics.measure"


@dataclass(frozen=True)
class FeatureMeasure:
    """A metric on the features of samples and of a reference.

    `compute`: `"module:function"`, which computes a `Measurement` from a `measure.MeasureTask`. `minimum(facts,
    options)`: the least number of images. `beside`: the metric that must be listed with it if the extractor has plain
    names such as `fid`. `of_classes`: it needs the class scores of the extractor. `of_frames`: it is also offered for
    the frames of clips.
    """

    kind: str
    what: str
    better: Literal["lower", "higher"]
    compute: str
    minimum: Callable[[ExtractorFacts, Any], int]
    beside: str | None = None
    compares: bool = True
    of_classes: bool = False
    of_frames: bool = False


def _at_least(count: int) -> Callable[[ExtractorFacts, Any], int]:
    return lambda facts, options: count


MEASURES = (
    FeatureMeasure(
        "fd", "Frechet distance", "lower", f"{MODULE}:frechet_distance",
        lambda facts, options: facts.distance_minimum(options), beside="kid", of_frames=True,
    ),
    FeatureMeasure(
        "fd-infinity", "Frechet distance extrapolated to infinitely many samples (Chong 2020)", "lower",
        f"{MODULE}:extrapolated_distance", lambda facts, options: 2 * facts.dimensions,
    ),
    FeatureMeasure(
        "kid", "Kernel distance (Binkowski 2018)", "lower", f"{MODULE}:kernel_distance", _at_least(KID_MINIMUM),
        of_frames=True,
    ),
    FeatureMeasure(
        "precision", "Share of samples in the reference's 3-neighbour balls (Kynkaanniemi 2019)", "higher",
        f"{MODULE}:precision", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "recall", "Share of the reference in the samples' 3-neighbour balls (Kynkaanniemi 2019)", "higher",
        f"{MODULE}:recall", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "density", "Mean number of the reference's 5-neighbour balls around a sample, over 5 (Naeem 2020)", "higher",
        f"{MODULE}:density", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "coverage", "Share of the reference's 5-neighbour balls with a sample in them (Naeem 2020)", "higher",
        f"{MODULE}:coverage", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "is", "Inception score; uses only the samples (Salimans 2016)", "higher", f"{MODULE}:class_score",
        _at_least(SCORE_MINIMUM), compares=False, of_classes=True,
    ),
)  # fmt: skip
BY_KIND = {measure.kind: measure for measure in MEASURES}


def metric_name(kind: str, extractor: Spec, *, variant: str | None = None) -> str:
    """`fid`, `fd-efflite0-infinity`, `kid-inception-1a2b3c4d`; `variant` is None for the published weights."""
    base = kind.removesuffix(INFINITY)
    if extractor.facts.plain_names and variant is None:
        stem = "fid" if base == "fd" else base
    else:
        stem = f"{base}-{extractor.name}" + (f"-{variant}" if variant else "")
    return stem + (INFINITY if kind.endswith(INFINITY) else "")


def metrics_on(extractor: Spec) -> list[Spec]:
    """The metrics that an extractor adds: all metrics of images, and the distances of the frames of clips."""
    found = []
    for measure in MEASURES:
        if measure.of_classes and extractor.facts.class_weight is None:
            continue
        found.append(_metric_spec(measure, extractor, "images"))
        if measure.of_frames:
            found.append(_metric_spec(measure, extractor, "frames"))
    return found


def _metric_spec(measure: FeatureMeasure, extractor: Spec, of: Literal["images", "frames"]) -> Spec:
    facts: ExtractorFacts = extractor.facts
    prefix, suffix = (FRAME, " of single frames; blind to motion") if of == "frames" else ("", "")
    doc = f"{measure.what} on {facts.network or extractor.name} features{suffix}"
    beside = (prefix + metric_name(measure.beside, extractor),) if measure.beside and facts.plain_names else ()
    metric = MetricFacts(
        unit="1", better=measure.better, needs="samples", missing=facts.missing, fingerprint=facts.fingerprint,
        minimum_images=functools.partial(measure.minimum, facts), of=of, smoke=facts.smoke, beside=beside,
        compares=measure.compares,
    )  # fmt: skip
    name, target = (
        prefix + metric_name(measure.kind, extractor),
        functools.partial(_measure, measure.kind, extractor, of),
    )
    return Spec(
        "metric", name, extractor.owner, doc, extractor.options, target, extractor.options_class, metric,
        comes_with=extractor.name,
    )  # fmt: skip


def _measure(
    kind: str, extractor: Spec, of: Literal["images", "frames"], options: Any, subject: Subject
) -> Measurement:
    if of == "frames":
        from zigma_bench.metrics.clips import measure_frames

        return measure_frames(kind, extractor, options, subject)
    from zigma_bench.metrics.measure import measure_features

    return measure_features(kind, extractor, options, subject)


def distances(extractors: Sequence[Spec]) -> dict[str, Spec]:
    """Each extractor, by the name of its Frechet distance."""
    return {metric_name("fd", extractor): extractor for extractor in extractors}
