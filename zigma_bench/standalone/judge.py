"""The quality of anybody's images: the metrics of a cell on samples and a reference that belong to none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.cell import load_parts, measure
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.images import Images
from zigma_bench.metrics.subject import Subject
from zigma_bench.plan import make_plan
from zigma_bench.plugins import catalogue
from zigma_bench.record import Measurement
from zigma_bench.standalone.images import open_images
from zigma_bench.suite import load_suite

METRICS = ("fd-efflite0", "kid-efflite0")  # those whose weights come with the installation


@dataclass(frozen=True)
class Asked:
    """A metric and its options, as a command names it."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """What every metric said of so many images against so many."""

    measurements: tuple[Measurement, ...]
    n_samples: int
    n_reference: int

    @property
    def exit_code(self) -> int:
        """3 where a metric was refused (weights, too few images), else 1 where a value is not finite, else 0."""
        found = {measurement.status for measurement in self.measurements}
        return NotReady.exit_code if "refused" in found else int("nan" in found)

    def to_json(self) -> dict[str, Any]:
        counts = {"n_samples": self.n_samples, "n_reference": self.n_reference}
        return {
            m.name: {
                "value": m.value, **counts, "fingerprint": m.fingerprint, "status": m.status, "reason": m.reason,
            }
            for m in self.measurements
        }  # fmt: skip


def judge(
    samples: Path, reference: Path, asked: Sequence[Asked], *, device: str, cache: Path | None = None
) -> Judgement:
    """Measure samples against a reference: folders, .zip or .npz; a suite file as reference gives its own.

    Raises UsageError and NotReady for what can't be read, BadImage for an image that is broken, and UsageError for
    images of two sizes and for a metric that measures no images.
    """
    asked = list(_checked(asked))
    drawn, (held, facts) = open_images(samples), _reference(reference)
    subject = Subject(samples=drawn, reference=held, reference_facts=facts, device=device, cache=cache)
    try:
        subject.compared()
    except UsageError as error:
        raise error.at(f"{samples} beside {reference}") from None
    found = tuple(measure(metric.name, metric.options, subject) for metric in asked)
    return Judgement(found, len(drawn), len(held))


def _checked(asked: Sequence[Asked]) -> Iterator[Asked]:
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


def _reference(path: Path) -> tuple[Images, dict[str, Any]]:
    """The reference, and what a fingerprint says of it beside its pixels."""
    if path.suffix not in (".yaml", ".yml"):
        return open_images(path), {"data": path.name}
    suite, source = load_suite(path)
    if suite.timed_alone:
        raise UsageError("an efficiency suite has no data", where=str(path), expected="a suite with a reference")
    cell = make_plan(suite, source, catalogue()).cells[0]  # all cells of a suite have one reference
    if cell.reference.images != "pixels":
        raise UsageError(
            "the suite's reference is what an autoencoder gives back", where=str(path), expected="images: pixels",
            do="set reference.images to pixels, or give a folder of images",
        )  # fmt: skip
    return load_parts(cell).reference, {"data": cell.data_set.label, "split": cell.reference.split}
