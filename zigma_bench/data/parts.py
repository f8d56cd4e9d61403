"""Divide the images of a data set into disjoint parts: training, tuning, validation loss, floor and reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import Images, Labels, Splits, Subset, has_order, labels_of
from zigma_bench.plan import Cell, TuningCut, check_tuning_images, no_tuning_of_stream, too_few_held_out
from zigma_bench.plan import held_out_needed as needed_by

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageParts:
    """The indices of each part: `train` and `tuning` of training images, the others of held-out images.

    No two parts of the same images share an index.
    """

    train: Indices
    tuning: Indices
    loss: Indices
    floor: Indices
    reference: Indices


def divide_images(cell: Cell, splits: Splits) -> ImageParts:
    """The parts of a cell's images, which depend only on the images, the section `tuning` and the number of samples.

    The images of `splits` have their classes as labels, if they have any. Raises UsageError for a stream, and NotReady
    for too few images.
    """
    cut, held_out = cell.tuning, len(splits.validation)
    assert cut is not None, "without a tuning part, images are not divided"
    if has_order(splits.train):
        raise no_tuning_of_stream("tuning")
    check_tuning_images(cut, len(splits.train), "tuning.fraction")
    if held_out < needed_by(cell.sample, cell.reference, cut):
        raise too_few_held_out(cell.sample, cell.reference, held_out, cut)
    classes = labels_of(splits.train, range(len(splits.train))) if cut.stratified else None
    train, tuning = cut_tuning(cut, len(splits.train), classes)
    order = _draw(cut, 1).permutation(held_out).astype(np.int64)
    loss, floor, reference = np.split(order, [cut.loss_images, cut.loss_images + cell.sample.count])
    return ImageParts(train, tuning, loss, floor, reference)


def cut_tuning(cut: TuningCut, count: int, classes: Labels | None) -> tuple[Indices, Indices]:
    """The indices of the images that stay for training, in order, and of the tuning images, in a random order.

    With `classes` [count], the share of each class is that of the whole, to within one image: every 1 / fraction-th
    image is taken after sorting by class.
    """
    order = _draw(cut, 0).permutation(count).astype(np.int64)
    chosen = order[: cut.images_of(count)]
    if classes is not None:
        by_class = order[np.argsort(classes[order], kind="stable")]
        places = ((np.arange(len(chosen)) + 0.5) * count / len(chosen)).astype(np.int64)
        chosen = by_class[places][_draw(cut, 2).permutation(len(places))]
    return np.setdiff1d(np.arange(count), chosen), chosen


def pick_training_images(cell: Cell, images: Images) -> Subset:
    """The training images whose loss is measured during training, as many as held-out ones: a fixed random choice, or
    the first ones of a stream, which is read in order."""
    assert cell.during is not None, "nothing is measured during training"
    if has_order(images):
        return Subset(images, np.arange(cell.during.images))
    order = _draw(cell.tuning or TuningCut(), 3).permutation(len(images)).astype(np.int64)
    return Subset(images, order[: cell.during.images])


def _draw(cut: TuningCut, use: int) -> np.random.RandomState:
    """The random numbers of one use; NumPy never changes the stream of RandomState (NEP 19)."""
    return np.random.RandomState([cut.seed, use])
