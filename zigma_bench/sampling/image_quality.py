"""Measure the quality of any images or clips with the metrics of the cells, without a suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.data.images import Images
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics.apply import measure_metric
from zigma_bench.metrics.subject import Subject
from zigma_bench.plan.metrics import check_metric
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Measurement
from zigma_bench.sampling.clips import same_colour
from zigma_bench.sampling.images import open_images
from zigma_bench.sampling.reference import QualityReference, open_reference

METRICS = ("fd-efflite0", "kid-efflite0")  # their weights come with the installation
CLIP_METRICS = tuple(f"frame-{name}" for name in METRICS)


@dataclass(frozen=True)
class QualityRequest:
    """A metric and its options, as named in a command."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class QualityResult:
    """The values of the metrics, with the number of samples and of reference images.

    `n_reference` is None if there is no reference, or if a file of statistics doesn't contain the count. `frames`: the
    frames per clip, None for images. Clips are counted as clips; the fingerprint of a metric of frames counts frames.
    """

    measurements: tuple[Measurement, ...]
    n_samples: int
    n_reference: int | None
    frames: int | None

    @property
    def exit_code(self) -> int:
        """3 if a metric was refused (missing weights, too few images), else 1 if a value is not finite, else 0."""
        found = {measurement.status for measurement in self.measurements}
        return NotReady.exit_code if "refused" in found else int("nan" in found)

    def to_json(self) -> dict[str, Any]:
        return {
            m.name: {
                "value": m.value,
                "n_samples": m.fingerprint["n_samples"] if m.fingerprint else self.n_samples,
                "n_reference": m.fingerprint.get("n_reference") if m.fingerprint else self.n_reference,
                "fingerprint": m.fingerprint, "status": m.status, "reason": m.reason,
            }
            for m in self.measurements
        }  # fmt: skip


def measure_quality(
    samples: Path,
    reference: Path | None,
    asked: Sequence[QualityRequest] | None,
    *,
    device: str,
    cache: Path | None = None,
    data: str | None = None,
) -> QualityResult:
    """Measure samples against a reference. Each is a folder, .zip or .npz. The reference can also be a suite file.

    `asked`: the metrics; None means METRICS, or CLIP_METRICS for clips. A reference .npz may contain the mean and
    covariance of features, with or without images. `data` selects one of several data sets of a suite. Metrics that use
    only the samples need no reference.

    Raises UsageError and NotReady for unreadable files, BadImage for a broken image, and UsageError for images of
    different sizes and for a metric that doesn't measure images.
    """
    asked = None if asked is None else list(check_metrics(asked))
    drawn = open_images(samples)
    frames = frames_of(drawn)
    if asked is None:
        asked = list(
            check_metrics([QualityRequest(name, {}) for name in (METRICS if frames is None else CLIP_METRICS)])
        )
    for metric in asked:
        check_metric(catalogue(), metric.name, frames, f"--metrics {metric.name}")
    opened = _reference(reference, asked, data)
    reference_images = opened.images
    if reference_images is not None:
        drawn, reference_images = same_colour(drawn, reference_images)
    subject = Subject(
        samples=drawn,
        reference=reference_images,
        reference_facts=opened.facts,
        device=device,
        cache=cache,
        moments=opened.moments,
    )
    if reference_images is not None:
        try:
            subject.compared()
        except UsageError as error:
            raise error.at(f"{samples} compared with {reference}") from None
    found = tuple(measure_metric(metric.name, metric.options, subject) for metric in asked)
    return QualityResult(found, len(drawn), opened.count, frames)


def frames_of(images: Images) -> int | None:
    """The number of frames per clip; None for single images."""
    shape = images.take([0]).shape[1:]
    return int(shape[0]) if len(shape) == 4 else None


def _reference(path: Path | None, asked: Sequence[QualityRequest], data: str | None) -> QualityReference:
    """Open the reference. It may be absent if no metric needs it."""
    if path is not None:
        return open_reference(path, data=data)
    comparing = [metric.name for metric in asked if catalogue().get("metric", metric.name).facts.compares]
    if comparing or data is not None:
        where = f"--metrics {','.join(comparing)}" if comparing else "--data"
        raise UsageError(
            "the samples need a reference", where=where,
            do="give --reference DIR, ZIP, NPZ or SUITE",
        )  # fmt: skip
    return QualityReference(None, None, {})


def check_metrics(asked: Sequence[QualityRequest]) -> Iterator[QualityRequest]:
    """Resolve the options of the metrics. UsageError for a duplicate, or a metric that measures a network."""
    names = [metric.name for metric in asked]
    for metric in asked:
        spec = catalogue().get("metric", metric.name, where="--metrics")
        if spec.facts.needs != "samples":
            raise UsageError(
                f"{metric.name} measures a network, not images", where="--metrics", do="measure it in a suite"
            )
        if names.count(metric.name) > 1:
            raise UsageError(f"the metric {metric.name!r} is listed twice", where="--metrics", do="keep one of them")
        yield QualityRequest(metric.name, spec.resolve(metric.options, where=f"--metrics {metric.name}"))
