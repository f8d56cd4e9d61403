"""What a suite's metrics ask of it: each once, with the ones that stand beside it, images enough, weights at hand."""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.errors import UsageError
from zigma_bench.plan.cells import Resolved
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import DataFacts, Missing
from zigma_bench.suite import Source, Suite


def refuse_doubles(names: Sequence[str], source: Source) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"the metric {name!r} stands twice", where=source.where("quality", index), do="keep one")


def require_beside(names: Sequence[str], catalogue: Catalogue, source: Source) -> None:
    """A metric that can't be read alone needs the others beside it, as fid needs kid."""
    for index, name in enumerate(names):
        for other in catalogue.get("metric", name).facts.beside:
            if other not in names:
                raise UsageError(
                    f"the metric {name!r} stands alone", where=source.where("quality", index),
                    expected=f"{other} beside it, which does not lean on the number of images", do=f"add {other}",
                )  # fmt: skip


def metric_fingerprint(catalogue: Catalogue, metric: Resolved) -> str:
    spec = catalogue.get("metric", metric.name)
    return str(spec.facts.fingerprint(spec.make_options(metric.options)))


def check_metrics(catalogue: Catalogue, metrics: Sequence[Resolved], facts: DataFacts, source: Source) -> None:
    """A metric of images is not one of clips, nor the other way round."""
    frames = facts.frames if facts.frames > 1 else None
    for index, metric in enumerate(metrics):
        check_metric(catalogue, metric.name, frames, source.where("quality", index))


def check_metric(catalogue: Catalogue, name: str, frames: int | None, where: str) -> None:
    """UsageError for a metric that does not measure single images, or clips where they have `frames`."""
    of = catalogue.get("metric", name).facts.of
    if of not in (("either", "images") if frames is None else ("either", "frames", "clips")):
        got = "single images" if frames is None else f"clips of {frames} frames"
        raise UsageError(
            f"the metric {name!r} is one of {of}", where=where, expected=of, got=got,
            do="take fd-efflite0" if frames is None else "take frame-fd-efflite0 or frame-kid-efflite0",
        )  # fmt: skip


def missing_metrics(
    catalogue: Catalogue, suite: Suite, metrics: Sequence[Resolved], frames: int, smoke: bool
) -> list[Missing]:
    """What the metrics lack; a smoke run measures what it can and writes the rest down as refused."""
    if smoke:
        return []
    missing: list[Missing] = []
    for metric in metrics:
        spec = catalogue.get("metric", metric.name)
        options = spec.make_options(metric.options)
        missing += spec.facts.missing(options)
        minimum = spec.facts.minimum_images(options)
        count = suite.sample.count * (frames if spec.facts.of == "frames" else 1)
        if spec.facts.needs == "samples" and count < minimum:
            drawn = f"sample.count is {suite.sample.count:,}" + (f" clips of {frames} frames" if frames > 1 else "")
            missing.append(
                Missing(
                    f"{metric.name} needs at least {minimum:,} images and {drawn}",
                    "raise sample.count, or take a metric such as kid-efflite0 or fd-efflite0",
                )
            )
    return list(dict.fromkeys(missing))  # two metrics may lack the same file
