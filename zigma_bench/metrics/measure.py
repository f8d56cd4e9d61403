"""Compute the metrics on features: the value, and a fingerprint of everything that it depends on."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zigma_bench.data.images import Images
from zigma_bench.errors import NotReady
from zigma_bench.metrics.extractors.open_extractor import open_extractor
from zigma_bench.metrics.features import Extractor, Features, digest_once, features_of_images
from zigma_bench.metrics.gaussian import EXTRAPOLATION_SEED, Gaussian, extrapolate_fd, fit_gaussian, frechet_distance_of
from zigma_bench.metrics.moments import Moments
from zigma_bench.metrics.neighbours import DENSITY_NEIGHBOURS, PRECISION_NEIGHBOURS, BallCoverage, points_in_balls
from zigma_bench.metrics.on_features import BY_KIND, COVER_MINIMUM, KID_MINIMUM, SCORE_MINIMUM, metric_name
from zigma_bench.metrics.quality import SEED, SUBSETS, kid_of_features, kid_subset_size
from zigma_bench.metrics.reference import reference_gaussian
from zigma_bench.metrics.subject import Subject
from zigma_bench.plugins.registry import Spec, load_target
from zigma_bench.records.record import Measurement

PROTOCOL = 1
UNIT = "1"
Figure = Callable[[Features, Gaussian], tuple[float, tuple[float, ...]]]  # the value, and the raw values behind it


@dataclass(frozen=True)
class MeasureTask:
    """One metric to compute on a subject, with an extractor that was opened from its `spec` and `options`.

    `published_inception`: the extractor is Inception v3 with the published weights.
    """

    name: str
    spec: Spec
    options: Any
    extractor: Extractor
    subject: Subject
    published_inception: bool


def measure_features(kind: str, spec: Spec, options: Any, subject: Subject) -> Measurement:
    """Compute a metric on the features of an extractor. The name of the result depends on the weights.

    Raises NotReady if weights are missing or damaged or if the reference file contains other features, and UsageError
    if there are no images to measure.
    """
    extractor, variant = open_extractor(spec, options), spec.facts.variant(options)
    name, published = metric_name(kind, spec, variant=variant), spec.facts.plain_names and variant is None
    found: Measurement = load_target(BY_KIND[kind].compute)(
        MeasureTask(name, spec, options, extractor, subject, published)
    )
    return found


def frechet_distance(task: MeasureTask) -> Measurement:
    """The Frechet distance. FID needs at least 2,048 images, the distance on other features 2."""
    minimum = task.spec.facts.distance_minimum(task.options)
    return _against_gaussian(task, minimum, {}, lambda x, y: (frechet_distance_of(fit_gaussian(x), y), ()))


def extrapolated_distance(task: MeasureTask) -> Measurement:
    """The distance extrapolated to infinitely many samples. It needs twice as many images as features."""
    facts = {"extrapolated": "to infinitely many samples, the reference as it is", "seed": EXTRAPOLATION_SEED}

    def figure(x: Features, y: Gaussian) -> tuple[float, tuple[float, ...]]:
        found = extrapolate_fd(x, y)
        return found.value, found.values

    return _against_gaussian(task, 2 * task.extractor.dimensions, facts, figure)


def _against_gaussian(task: MeasureTask, minimum: int, more: dict[str, Any], figure: Figure) -> Measurement:
    """Compare the samples' features with the Gaussian of the reference: from a file if it fits the extractor, else from
    images."""
    moments = task.subject.moments
    unfit = None
    if moments is not None:
        unfit = moments.why_unfit(task.extractor.fingerprint(), published_inception=task.published_inception)
    if unfit is not None and task.subject.reference is None:
        raise NotReady(unfit, do="use images as the reference")
    if moments is not None and unfit is None:
        samples, count, gaussian = task.subject.drawn(), moments.count, moments.gaussian
        facts = _facts(task, samples) | _moments_facts(task, moments)
    else:
        samples, reference = task.subject.compared()
        count, gaussian = len(reference), functools.partial(_image_gaussian, task, reference)
        facts = _compared_facts(task, samples, reference)
    least = len(samples) if count is None else min(len(samples), count)
    if least < minimum:
        return _too_few(task, minimum, least, facts | more)
    x, y = _sample_features(task, samples), gaussian()
    if not (np.isfinite(x).all() and np.isfinite(y.root).all()):
        return Measurement.of(task.name, float("nan"), UNIT, fingerprint=facts | more)
    value, raw = figure(x, y)
    return Measurement.of(task.name, value, UNIT, fingerprint=facts | more, raw=raw)


def _image_gaussian(task: MeasureTask, reference: Images) -> Gaussian:
    subject = task.subject
    return reference_gaussian(reference, task.extractor, device=subject.device, cache=subject.cache)


def kernel_distance(task: MeasureTask) -> Measurement:
    """The kernel distance: the mean over random subsets. Their size depends on the numbers of images."""
    samples, reference = task.subject.compared()
    facts = _compared_facts(task, samples, reference)
    size = kid_subset_size(len(samples), len(reference))
    facts |= {"kid_subset_size": size, "kid_subsets": SUBSETS, "kid_seed": SEED}
    if size < 2:
        return _too_few(task, KID_MINIMUM, min(len(samples), len(reference)), facts)
    features = _sample_features(task, samples), _reference_features(task, reference)
    values = kid_of_features(*features, device=task.subject.device)
    raw = values.values if np.isfinite(values.mean) else ()  # a record can't contain NaN
    return Measurement.of(task.name, values.mean, UNIT, fingerprint=facts, raw=raw)


def _coverage_metric(
    part: Literal["inside", "density", "coverage"], neighbours: int, *, swapped: bool = False
) -> Callable[[MeasureTask], Measurement]:
    """Precision, density or coverage of the samples. With `swapped`, samples and reference change places: recall."""

    def compute(task: MeasureTask) -> Measurement:
        samples, reference = task.subject.compared()
        facts = _compared_facts(task, samples, reference) | {"neighbours": neighbours}
        if (least := min(len(samples), len(reference))) < COVER_MINIMUM:
            return _too_few(task, COVER_MINIMUM, least, facts)
        x, y = _sample_features(task, samples), _reference_features(task, reference)
        covered = _coverage_once(y, x, task.subject.device) if swapped else _coverage_once(x, y, task.subject.device)
        return Measurement.of(task.name, getattr(covered, part), UNIT, fingerprint=facts)

    return compute


precision = _coverage_metric("inside", PRECISION_NEIGHBOURS)
recall = _coverage_metric("inside", PRECISION_NEIGHBOURS, swapped=True)
density = _coverage_metric("density", DENSITY_NEIGHBOURS)
coverage = _coverage_metric("coverage", DENSITY_NEIGHBOURS)


def class_score(task: MeasureTask) -> Measurement:
    """The Inception score of the samples; it uses no reference."""
    from zigma_bench.metrics.inception_score import SEED, SPLITS, inception_score

    samples = task.subject.drawn()
    facts = _facts(task, samples) | {"layer": "logits without bias", "splits": SPLITS, "seed": SEED}
    if len(samples) < SCORE_MINIMUM:
        return _too_few(task, SCORE_MINIMUM, len(samples), facts, of="the samples")
    weight: Any = load_target(task.spec.facts.class_weight)(task.options)
    scores = inception_score(_sample_features(task, samples), weight)
    raw = scores if np.isfinite(scores).all() else ()
    return Measurement.of(task.name, float(np.mean(scores)), UNIT, fingerprint=facts, raw=raw)


def _sample_features(task: MeasureTask, samples: Images) -> Features:
    """The features of the samples. They aren't stored, because no other cell has the same samples."""
    subject = task.subject
    return features_of_images(samples, task.extractor, device=subject.device, cache=subject.cache, store=False)


def _reference_features(task: MeasureTask, reference: Images) -> Features:
    return features_of_images(reference, task.extractor, device=task.subject.device, cache=task.subject.cache)


def _coverage_once(points: Features, centres: Features, device: str) -> BallCoverage:
    """Compare all pairs once for precision, density and coverage together."""
    for a, b, found in _covers:
        if a is points and b is centres:
            return found
    _covers.append((points, centres, points_in_balls(points, centres, device=device)))
    return _covers[-1][2]


_covers: deque[tuple[Features, Features, BallCoverage]] = deque(maxlen=2)  # samples in reference, and vice versa


def _facts(task: MeasureTask, samples: Images) -> dict[str, Any]:
    """The facts that two values must share to be in one column."""
    return {"protocol": PROTOCOL, **task.extractor.fingerprint(), "n_samples": len(samples)}


def _moments_facts(task: MeasureTask, moments: Moments) -> dict[str, Any]:
    """The facts of a reference that is a mean and a covariance."""
    reference = {**task.subject.reference_facts, "statistics_sha256": moments.sha256}
    return {"n_reference": moments.count, "reference": reference}


def _compared_facts(task: MeasureTask, samples: Images, reference: Images) -> dict[str, Any]:
    """The facts that two values must share to be in one column, including the reference images."""
    return {
        **_facts(task, samples),
        "n_reference": len(reference),
        "reference": {**task.subject.reference_facts, "sha256": digest_once(reference)},
    }


def _too_few(
    task: MeasureTask, minimum: int, got: int, facts: dict[str, Any], *, of: str = "the samples and in the reference"
) -> Measurement:
    smaller = "the smaller has" if "reference" in of else "there are"
    reason = f"{task.name} needs at least {minimum:,} images in {of}, and {smaller} {got:,}"
    return Measurement.refused(task.name, UNIT, reason, facts)
