"""The images of a cell: loaded, checked against the plan, transformed, and split by use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zigma_bench.data.images import Images, Splits, Subset, pixels_digest
from zigma_bench.data.latents.cache import latents_of, reconstructions_of, select_images
from zigma_bench.data.parts import ImageParts, divide_images
from zigma_bench.data.reading.planned import check_planned
from zigma_bench.data.transforms.apply import Transform, apply_transforms
from zigma_bench.plan import Cell, held_out_needed, too_few_held_out
from zigma_bench.plugins.discovery import catalogue

if TYPE_CHECKING:
    from zigma_bench.conditioning.text_features import TextTable

OnProgress = Callable[[int, str], None]


@dataclass(frozen=True)
class CellImages:
    """The images of a cell by use: no image of `train` is in `validation`, and none of `floor` in `reference`.

    `validation` is all held-out images, and `loss` those of the validation loss. With a tuning part, `parts` has the
    indices of all parts in `whole`, which are disjoint. Without one, `loss` is `validation`.
    """

    whole: Splits
    train: Images
    validation: Images
    loss: Images
    floor: Subset
    reference: Images
    texts: TextTable | None = None  # for a cell conditioned on text: the features of its captions, by label
    tuning: Subset | None = None
    parts: ImageParts | None = None


def load_cell_images(cell: Cell, device: str = "cpu", on_progress: OnProgress = lambda done, text: None) -> CellImages:
    """The images of a cell; NotReady before any training if there are too few images for a part.

    For a cell conditioned on text, also the text features, on the device; they are computed now if not cached.
    """
    splits, texts = load_cell_splits(cell), None
    parts = None if cell.tuning is None else divide_images(cell, splits)
    if cell.text is not None:
        from zigma_bench.conditioning.text_features import check_width, load_text_features

        assert cell.condition is not None, "a cell with texts has a condition"
        splits, texts = load_text_features(splits, cell.text, device=device, on_progress=on_progress)
        check_width(texts, cell.condition.size)
    return _undivided(cell, splits, texts) if parts is None else _divided(cell, splits, parts, texts)


def _undivided(cell: Cell, splits: Splits, texts: TextTable | None) -> CellImages:
    """The images of a cell without a tuning part."""
    count, held_out = cell.sample.count, len(splits.validation)
    order = np.random.default_rng(0).permutation(held_out)
    if cell.quality and held_out < held_out_needed(cell.sample, cell.reference):
        raise too_few_held_out(cell.sample, cell.reference, held_out)
    floor = Subset(splits.validation, order[:count])
    rest = splits.train if cell.reference.split == "train" else Subset(splits.validation, order[count:])
    return CellImages(splits, splits.train, splits.validation, splits.validation, floor, rest, texts)


def _divided(cell: Cell, splits: Splits, parts: ImageParts, texts: TextTable | None) -> CellImages:
    """The images of a cell with a tuning part."""
    train, held_out = Subset(splits.train, parts.train), splits.validation
    return CellImages(
        splits,
        train,
        held_out,
        loss=Subset(held_out, parts.loss),
        floor=Subset(held_out, parts.floor),
        reference=train if cell.reference.split == "train" else Subset(held_out, parts.reference),
        texts=texts,
        tuning=Subset(splits.train, parts.tuning),
        parts=parts,
    )


def describe_parts(images: CellImages) -> dict[str, dict[str, Any]]:
    """The number of images of each part, and the sha256 of their pixels; empty without a tuning part.

    The hash of the training images is left out, because it needs a pass over all of them.
    """
    if images.tuning is None:
        return {}
    named = {"tuning": images.tuning, "loss": images.loss, "floor": images.floor}
    found: dict[str, dict[str, Any]] = {"train": {"images": len(images.train)}}
    return found | {name: {"images": len(part), "pixels_sha256": pixels_digest(part)} for name, part in named.items()}


def load_cell_splits(cell: Cell) -> Splits:
    """The training and held-out images of a cell's data set after its transforms, as pixels; NotReady if they changed
    after the plan was made."""
    check_planned(cell)
    data = cell.data_set
    spec = catalogue().get("dataset", data.name)
    return apply_transforms(spec.load()(spec.make_options(data.options)), _transforms(cell))


@dataclass(frozen=True)
class NetworkInputs:
    """The images of `CellImages`, or their latents, as the network gets them."""

    train: Images
    validation: Images
    loss: Images
    tuning: Images | None = None


def network_inputs(cell: Cell, images: CellImages, cache: Path) -> NetworkInputs:
    """The images on which the network is trained and measured, or their latents; NotReady if the latents are not
    encoded."""
    space, parts = cell.latents, images.parts
    whole = images.whole if space is None else latents_of(images.whole, space, cache)
    if parts is None:
        return NetworkInputs(whole.train, whole.validation, whole.validation)
    return NetworkInputs(
        select_images(whole.train, parts.train),
        whole.validation,
        select_images(whole.validation, parts.loss),
        select_images(whole.train, parts.tuning),
    )


def reference_images(cell: Cell, images: CellImages, cache: Path) -> Images:
    """The images that samples are compared with: real ones, or the autoencoder's reconstructions of them."""
    if cell.reference.images == "pixels":
        return images.reference
    assert cell.latents is not None, "the plan refuses reconstructions without an autoencoder"
    split: Images = getattr(images.whole, cell.reference.split)
    decoded = reconstructions_of(split, cell.latents, cache)
    if images.reference is split:
        return decoded
    assert isinstance(images.reference, Subset), "the reference is all images of a split or a subset of them"
    return Subset(decoded, images.reference.indices)


def _transforms(cell: Cell) -> list[Transform]:
    """The transforms of a cell's images, ready to be called."""
    steps: list[Transform] = []
    for transform in cell.transforms:
        spec = catalogue().get("transform", transform.name)
        steps.append(functools.partial(spec.load(), spec.make_options(transform.options)))
    return steps
