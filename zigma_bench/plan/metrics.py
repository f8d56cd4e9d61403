"""Checks of a suite's metrics: no duplicates, required companions, enough images, and available weights."""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.errors import UsageError
from zigma_bench.plan.cells import DuringTraining, Resolved
from zigma_bench.plan.parts import TuningCut
from zigma_bench.plan.resolve import resolve_option
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import DataFacts, Missing
from zigma_bench.suite import Choice, Suite, YamlSource

Place = tuple[str, ...]
QUALITY: Place = ("quality",)
DURING: Place = ("during", "metrics")


def resolve_metrics(
    choices: Sequence[Choice], catalogue: Catalogue, source: YamlSource, place: Place = QUALITY
) -> tuple[Resolved, ...]:
    """The metrics of a list in a suite. UsageError for a metric that is listed twice, or without its companions."""
    found = tuple(
        resolve_option(catalogue, "metric", metric, source.where(*place, index)) for index, metric in enumerate(choices)
    )
    names = [metric.name for metric in found]
    _refuse_doubles(names, source, place)
    _require_beside(names, catalogue, source, place)
    return found


def resolve_during(suite: Suite, catalogue: Catalogue, source: YamlSource) -> DuringTraining | None:
    """The quality during training of a suite; UsageError for a metric that doesn't measure samples."""
    if suite.during is None:
        return None
    metrics = resolve_metrics(suite.during.metrics, catalogue, source, DURING)
    for index, metric in enumerate(metrics):
        if catalogue.get("metric", metric.name).facts.needs != "samples":
            raise UsageError(
                f"{metric.name} measures the network, not samples", where=source.where(*DURING, index),
                expected="metrics of samples; the validation loss is measured at every point anyway", got=metric.name,
                do="leave it out",
            )  # fmt: skip
    keys = suite.during.model_dump(exclude={"metrics"})
    fingerprints = tuple(metric_fingerprint(catalogue, metric) for metric in metrics)
    return DuringTraining(**keys, metrics=metrics, fingerprints=fingerprints)


def _refuse_doubles(names: Sequence[str], source: YamlSource, place: Place) -> None:
    """Raise UsageError for a metric that is listed twice."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"the metric {name!r} is listed twice", where=source.where(*place, index), do="remove one")


def _require_beside(names: Sequence[str], catalogue: Catalogue, source: YamlSource, place: Place) -> None:
    """Raise UsageError for a metric without the metrics that must accompany it, as fid without kid."""
    for index, name in enumerate(names):
        for other in catalogue.get("metric", name).facts.beside:
            if other not in names:
                raise UsageError(
                    f"the metric {name!r} is listed without {other}", where=source.where(*place, index),
                    expected=f"{other} too, which does not depend on the number of images", do=f"add {other}",
                )  # fmt: skip


def metric_fingerprint(catalogue: Catalogue, metric: Resolved) -> str:
    """The fingerprint of the files that a metric uses, such as weights; empty without any."""
    spec = catalogue.get("metric", metric.name)
    return str(spec.facts.fingerprint(spec.make_options(metric.options)))


def check_metrics(
    catalogue: Catalogue, metrics: Sequence[Resolved], facts: DataFacts, source: YamlSource, place: Place = QUALITY
) -> None:
    """Raise UsageError for a metric of images on clips, or of clips on images."""
    frames = facts.frames if facts.frames > 1 else None
    for index, metric in enumerate(metrics):
        check_metric(catalogue, metric.name, frames, source.where(*place, index))


def check_loss_images(cut: TuningCut, metrics: Sequence[Resolved], catalogue: Catalogue, source: YamlSource) -> None:
    """Raise UsageError for a metric of the network that asks for more images than the validation loss has."""
    for index, metric in enumerate(metrics):
        wanted, needs = metric.options.get("images"), catalogue.get("metric", metric.name).facts.needs
        if needs == "network" and type(wanted) is int and wanted > cut.loss_images:
            raise UsageError(
                f"{metric.name} needs more images than the part for the validation loss has",
                where=source.where("quality", index), expected=f"at most {cut.loss_images:,}", got=f"{wanted:,}",
                do="raise tuning.loss_images, or lower the metric's option images",
            )  # fmt: skip


def check_metric(catalogue: Catalogue, name: str, frames: int | None, where: str) -> None:
    """Raise UsageError for a metric that can't measure single images, or clips if there are `frames`."""
    of = catalogue.get("metric", name).facts.of
    if of not in (("either", "images") if frames is None else ("either", "frames", "clips")):
        got = "single images" if frames is None else f"clips of {frames} frames"
        raise UsageError(
            f"the metric {name!r} measures {of}", where=where, expected=of, got=got,
            do="use fd-efflite0" if frames is None else "use frame-fd-efflite0 or frame-kid-efflite0",
        )  # fmt: skip


def missing_metrics(
    catalogue: Catalogue, drawn: int, metrics: Sequence[Resolved], frames: int, smoke: bool, key: str = "sample.count"
) -> list[Missing]:
    """The missing files and images of the metrics of `drawn` samples, a number that the suite's `key` sets.

    Nothing is missing for a smoke run, which records such metrics as refused.
    """
    if smoke:
        return []
    missing: list[Missing] = []
    for metric in metrics:
        spec = catalogue.get("metric", metric.name)
        options = spec.make_options(metric.options)
        missing += spec.facts.missing(options)
        minimum = spec.facts.minimum_images(options)
        count = drawn * (frames if spec.facts.of == "frames" else 1)
        if spec.facts.needs == "samples" and count < minimum:
            given = f"{key} is {drawn:,}" + (f" clips of {frames} frames" if frames > 1 else "")
            missing.append(
                Missing(
                    f"{metric.name} needs at least {minimum:,} images and {given}",
                    f"raise {key}, or use a metric such as kid-efflite0 or fd-efflite0",
                )
            )
    return list(dict.fromkeys(missing))  # two metrics may need the same file
