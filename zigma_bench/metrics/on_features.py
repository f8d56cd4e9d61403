"""The measures on features, and their names for each registered extractor. This module imports no torch.

`fid`, `kid`, `is`, `precision` ... are figures of Inception v3 with the published weights alone. `fd-efflite0`,
`precision-dinov2` ... are those of another extractor. Weights that are not the published ones add the start of their
sha256.
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

KID_MINIMUM = 4  # subsets of half the smaller set, and an unbiased estimate needs two images in each
COVER_MINIMUM = 6  # a fifth neighbour, and the image itself
SCORE_MINIMUM = 10  # the Inception score is taken of ten parts
INFINITY, FRAME = "-infinity", "frame-"
HERE = "zigma_bench.metrics.measure"


@dataclass(frozen=True)
class FeatureMeasure:
    """A measure on the features of samples and of a reference.

    `compute`: `"module:function"` that makes a `Measurement` of a `measure.MeasureTask`. `minimum(facts, options)`: the
    least number of images. `beside`: the measure that must be listed with it where the extractor has the field's plain
    names. `of_classes`: it needs the extractor's class scores. `of_frames`: it is taken of the frames of clips too.
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
        "fd", "Frechet distance", "lower", f"{HERE}:frechet_distance",
        lambda facts, options: facts.distance_minimum(options), beside="kid", of_frames=True,
    ),
    FeatureMeasure(
        "fd-infinity", "Frechet distance extrapolated to infinitely many samples (Chong 2020)", "lower",
        f"{HERE}:extrapolated_distance", lambda facts, options: 2 * facts.dimensions,
    ),
    FeatureMeasure(
        "kid", "Kernel distance (Binkowski 2018)", "lower", f"{HERE}:kernel_distance", _at_least(KID_MINIMUM),
        of_frames=True,
    ),
    FeatureMeasure(
        "precision", "Share of samples in the reference's 3-neighbour balls (Kynkaanniemi 2019)", "higher",
        f"{HERE}:precision", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "recall", "Share of the reference in the samples' 3-neighbour balls (Kynkaanniemi 2019)", "higher",
        f"{HERE}:recall", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "density", "Mean number of the reference's 5-neighbour balls around a sample, over 5 (Naeem 2020)", "higher",
        f"{HERE}:density", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "coverage", "Share of the reference's 5-neighbour balls with a sample in them (Naeem 2020)", "higher",
        f"{HERE}:coverage", _at_least(COVER_MINIMUM),
    ),
    FeatureMeasure(
        "is", "Inception score, of the samples alone (Salimans 2016)", "higher", f"{HERE}:class_score",
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
    """The metrics that an extractor brings: all measures of images, and the distances of the frames of clips."""
    found = []
    for measure in MEASURES:
        if measure.of_classes and extractor.facts.class_weight is None:
            continue
        found.append(_metric(measure, extractor, "images"))
        if measure.of_frames:
            found.append(_metric(measure, extractor, "frames"))
    return found


def _metric(measure: FeatureMeasure, extractor: Spec, of: Literal["images", "frames"]) -> Spec:
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
        functools.partial(_measured, measure.kind, extractor, of),
    )
    return Spec(
        "metric", name, extractor.owner, doc, extractor.options, target, extractor.options_class, metric,
        comes_with=extractor.name,
    )  # fmt: skip


def _measured(
    kind: str, extractor: Spec, of: Literal["images", "frames"], options: Any, subject: Subject
) -> Measurement:
    if of == "frames":
        from zigma_bench.metrics.clips import measure_frames

        return measure_frames(kind, extractor, options, subject)
    from zigma_bench.metrics.measure import measure_features

    return measure_features(kind, extractor, options, subject)


def distances(extractors: Sequence[Spec]) -> dict[str, Spec]:
    """The extractors by the name of their Frechet distance."""
    return {metric_name("fd", extractor): extractor for extractor in extractors}
