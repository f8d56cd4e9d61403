"""The parts of a data set: training, tuning, validation loss, floor and reference; and whether the images suffice.

Without a tuning part, the validation loss is measured on the first held-out images, and the floor and the reference are
drawn from all of them. With one, all parts are disjoint: tuning is cut from the training images; validation loss, floor
and, by default, the reference are cut from the held-out images.
"""

from __future__ import annotations

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry import DataFacts
from zigma_bench.suite import Reference, Sample, Suite, Tuning

REFERENCE_IMAGES = 2  # the least that have a covariance


class TuningCut(Tuning):
    """The suite's section `tuning` for one data set; `stratified`: whether it is cut from each class alike."""

    stratified: bool = False

    def images_of(self, train: int) -> int:
        """The number of tuning images among `train` training images."""
        return round(self.fraction * train)


def tuning_cut(suite: Suite, facts: DataFacts) -> TuningCut | None:
    """The tuning part of a data set, cut from each class alike if its images have classes; None without `tuning`."""
    if suite.tuning is None:
        return None
    classes = any(condition.kind == "class" for condition in facts.conditions)
    return TuningCut(**suite.tuning.model_dump(), stratified=classes)


def held_out_needed(sample: Sample, reference: Reference, tuning: TuningCut | None = None) -> int:
    """The number of held-out images that a suite needs: the floor's, plus two if the rest is the reference, plus those
    of the validation loss if they are a part of their own."""
    others = 0 if reference.split == "train" else REFERENCE_IMAGES
    return sample.count + others + (0 if tuning is None else tuning.loss_images)


def too_few_held_out(sample: Sample, reference: Reference, held_out: int, tuning: TuningCut | None = None) -> NotReady:
    """The error for a data source with too few held-out images."""
    from_held_out = reference.split != "train"
    loss = "" if tuning is None else f", the validation loss {tuning.loss_images:,} others"
    others = f" and the reference at least {REFERENCE_IMAGES} others" if from_held_out else ""
    return NotReady(
        f"the floor needs {sample.count:,} held-out images{loss}{others}, and there are {held_out:,}",
        do="hold out more images, or lower sample.count"
        + ("" if tuning is None else ", or lower tuning.loss_images")
        + (", or set reference.split to train" if from_held_out else ""),
    )


def check_during_images(images: int, train: int | None, held_out: int | None, limit: str, where: str) -> None:
    """Raise NotReady if there are fewer than `images` training or held-out images for the losses during training.

    `limit` names what sets the number of held-out images.
    """
    for count, what in ((held_out, f"held-out images: {limit}"), (train, "training images")):
        if count is not None and count < images:
            raise NotReady(
                "the losses during training need more images than there are", where=where,
                expected=f"at most {count:,} ({what})", got=f"{images:,}", do="lower during.images",
            )  # fmt: skip


def no_tuning_of_stream(where: str) -> UsageError:
    """The error for a stream, whose training images can't be selected by number."""
    return UsageError(
        "a tuning part can't be cut from a stream, whose images arrive in an order of its own", where=where,
        expected="images in files", got="a stream", do="leave tuning out, or download the data set",
    )  # fmt: skip


def check_tuning_images(cut: TuningCut, train: int, where: str) -> None:
    """Raise NotReady if the tuning part or the rest of `train` training images would be empty."""
    if not 1 <= cut.images_of(train) < train:
        raise NotReady(
            f"a tuning part of {cut.fraction:g} of the training images leaves one side empty", where=where,
            expected="at least one image for tuning and one for training",
            got=f"{cut.images_of(train):,} of {train:,} training images for tuning",
            do="change tuning.fraction, or add training images",
        )  # fmt: skip
