"""Check in the plan that a data set has enough images for all parts of a suite, as far as their numbers are known."""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.plan.cells import DuringTraining, Resolved
from zigma_bench.plan.data import DataSet
from zigma_bench.plan.metrics import DURING, check_loss_images, check_metrics
from zigma_bench.plan.parts import (
    TuningCut,
    check_during_images,
    check_tuning_images,
    held_out_needed,
    no_tuning_of_stream,
    too_few_held_out,
    tuning_cut,
)
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import load_target
from zigma_bench.suite import Suite, YamlSource

Known = tuple[int | None, int | None]  # the numbers of training and of held-out images


def check_parts(
    suite: Suite,
    data: DataSet,
    metrics: Sequence[Resolved],
    during: DuringTraining | None,
    source: YamlSource,
    catalogue: Catalogue,
) -> None:
    """Check the tuning part and the quality during training on one data set, if the suite has them.

    Raises UsageError for a stream and for a metric that doesn't fit the images, and NotReady for too few images.
    """
    cut = tuning_cut(suite, data.facts)
    if data.data is None or (cut is None and during is None):
        return
    known = _known_counts(data, catalogue)
    if cut is not None:
        _check_tuning(suite, cut, data, known, source)
        check_loss_images(cut, metrics, catalogue, source)
    if during is not None:
        check_metrics(catalogue, during.metrics, data.facts, source, DURING)
        _check_during(during, cut, known, source)


def _known_counts(data: DataSet, catalogue: Catalogue) -> Known:
    """The numbers of images of a data set; None for a number that is only known after loading."""
    assert data.data is not None, "an efficiency suite has no images"
    spec, facts = catalogue.get("dataset", data.data.name), data.facts
    if spec.facts.count is None or facts.missing:
        return None, facts.held_out
    counts = load_target(spec.facts.count)(spec.make_options(data.data.options))
    train = counts.train if counts.train is not None and counts.train >= 0 else None  # files may be missing
    return train, facts.held_out if counts.validation is None else counts.validation


def _check_tuning(suite: Suite, cut: TuningCut, data: DataSet, known: Known, source: YamlSource) -> None:
    if data.facts.streams:
        raise no_tuning_of_stream(source.where("tuning"))
    train, held_out = known
    if train is not None:
        check_tuning_images(cut, train, source.where("tuning", "fraction"))
    if held_out is not None and held_out < held_out_needed(suite.sample, suite.reference, cut):
        raise too_few_held_out(suite.sample, suite.reference, held_out, cut).at(source.where("tuning"))


def _check_during(during: DuringTraining, cut: TuningCut | None, known: Known, source: YamlSource) -> None:
    """Raise NotReady if the losses during training need more images than a part has."""
    train, held_out = known
    where = source.where("during", "images")
    if cut is None:
        check_during_images(during.images, train, held_out, "the number of held-out images", where)
    else:
        left = None if train is None else train - cut.images_of(train)
        check_during_images(during.images, left, cut.loss_images, "tuning.loss_images", where)
