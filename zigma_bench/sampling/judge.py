"""The quality of anybody's images or clips: the metrics of a cell on samples and a reference that belong to none."""

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
from zigma_bench.sampling.reference import Reference, open_reference

METRICS = ("fd-efflite0", "kid-efflite0")  # those whose weights come with the installation
CLIP_METRICS = tuple(f"frame-{name}" for name in METRICS)


@dataclass(frozen=True)
class Asked:
    """A metric and its options, as a command names it."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """What every metric said of so many images against so many; None where a file of statistics does not say.

    Of clips of `frames` it is they that are counted, and by a metric of frames, in its fingerprint, the frames.
    """

    measurements: tuple[Measurement, ...]
    n_samples: int
    n_reference: int | None
    frames: int | None

    @property
    def exit_code(self) -> int:
        """3 where a metric was refused (weights, too few images), else 1 where a value is not finite, else 0."""
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


def judge(
    samples: Path,
    reference: Path | None,
    asked: Sequence[Asked] | None,
    *,
    device: str,
    cache: Path | None = None,
    data: str | None = None,
) -> Judgement:
    """Measure samples against a reference: folders, .zip or .npz; a suite file as reference gives its own.

    `asked`: METRICS, or those of clips, where it is None.

    A reference .npz may hold the mean and covariance of features beside images, or alone; `data` names one of several
    data sets of a suite; figures of the samples alone need none. Raises UsageError and NotReady for what can't be read,
    BadImage for an image that is broken, and UsageError for images of two sizes and for a metric that measures no
    images.
    """
    asked = None if asked is None else list(checked(asked))
    drawn = open_images(samples)
    frames = frames_of(drawn)
    if asked is None:
        asked = list(checked([Asked(name, {}) for name in (METRICS if frames is None else CLIP_METRICS)]))
    for metric in asked:
        check_metric(catalogue(), metric.name, frames, f"--metrics {metric.name}")
    held = _reference(reference, asked, data)
    against = held.images
    if against is not None:
        drawn, against = same_colour(drawn, against)
    subject = Subject(
        samples=drawn,
        reference=against,
        reference_facts=held.facts,
        device=device,
        cache=cache,
        moments=held.moments,
    )
    if against is not None:
        try:
            subject.compared()
        except UsageError as error:
            raise error.at(f"{samples} beside {reference}") from None
    found = tuple(measure_metric(metric.name, metric.options, subject) for metric in asked)
    return Judgement(found, len(drawn), held.count, frames)


def frames_of(images: Images) -> int | None:
    """The frames of each clip; None of single images."""
    shape = images.take([0]).shape[1:]
    return int(shape[0]) if len(shape) == 4 else None


def _reference(path: Path | None, asked: Sequence[Asked], data: str | None) -> Reference:
    """The reference; none where no metric looks at it."""
    if path is not None:
        return open_reference(path, data=data)
    comparing = [metric.name for metric in asked if catalogue().get("metric", metric.name).facts.compares]
    if comparing or data is not None:
        where = f"--metrics {','.join(comparing)}" if comparing else "--data"
        raise UsageError(
            "--samples are measured against something", where=where,
            do="give --reference DIR, ZIP, NPZ or SUITE",
        )  # fmt: skip
    return Reference(None, None, {})


def checked(asked: Sequence[Asked]) -> Iterator[Asked]:
    """The metrics with all of their options; UsageError for a name that stands twice or judges a network."""
    names = [metric.name for metric in asked]
    for metric in asked:
        spec = catalogue().get("metric", metric.name, where="--metrics")
        if spec.facts.needs != "samples":
            raise UsageError(
                f"{metric.name} measures a network and no images", where="--metrics", do="measure it in a suite"
            )
        if names.count(metric.name) > 1:
            raise UsageError(f"the metric {metric.name!r} stands twice", where="--metrics", do="keep one of them")
        yield Asked(metric.name, spec.resolve(metric.options, where=f"--metrics {metric.name}"))
