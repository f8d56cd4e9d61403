"""The images of a cell: loaded, checked against the plan, transformed, and split by use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zigma_bench.data.images import Images, Splits, Subset
from zigma_bench.data.latents.cache import latents_of, reconstructions_of
from zigma_bench.data.reading.planned import check_planned
from zigma_bench.data.transforms.apply import Transform, apply_transforms
from zigma_bench.plan import Cell, held_out_needed, too_few_held_out
from zigma_bench.plugins.discovery import catalogue

if TYPE_CHECKING:
    from zigma_bench.conditioning.text_features import TextTable

OnProgress = Callable[[int, str], None]


@dataclass(frozen=True)
class CellImages:
    """The images of a cell by use: no image of `train` is in `validation`, and none of `floor` in `reference`."""

    train: Images
    validation: Images
    floor: Subset
    reference: Images
    texts: TextTable | None = None  # for a cell conditioned on text: the features of its captions, by label


def load_cell_images(cell: Cell, device: str = "cpu", on_progress: OnProgress = lambda done, text: None) -> CellImages:
    """The images of a cell; NotReady before any training if there are too few held-out images.

    For a cell conditioned on text, also the text features, on the device; they are computed now if not cached.
    """
    splits, texts = load_cell_splits(cell), None
    if cell.text is not None:
        from zigma_bench.conditioning.text_features import check_width, load_text_features

        assert cell.condition is not None, "a cell with texts has a condition"
        splits, texts = load_text_features(splits, cell.text, device=device, on_progress=on_progress)
        check_width(texts, cell.condition.size)
    count, held_out = cell.sample.count, len(splits.validation)
    order = np.random.default_rng(0).permutation(held_out)
    if cell.quality and held_out < held_out_needed(cell.sample, cell.reference):
        raise too_few_held_out(cell.sample, cell.reference, held_out)
    floor = Subset(splits.validation, order[:count])
    rest = splits.train if cell.reference.split == "train" else Subset(splits.validation, order[count:])
    return CellImages(splits.train, splits.validation, floor, rest, texts)


def load_cell_splits(cell: Cell) -> Splits:
    """The training and held-out images of a cell's data set after its transforms, as pixels; NotReady if they changed
    after the plan was made."""
    check_planned(cell)
    data = cell.data_set
    spec = catalogue().get("dataset", data.name)
    return apply_transforms(spec.load()(spec.make_options(data.options)), _transforms(cell))


def network_inputs(cell: Cell, images: CellImages, cache: Path) -> Splits:
    """The images on which the network is trained, or their latents; NotReady if the latents are not encoded."""
    pixels, space = Splits(images.train, images.validation), cell.latents
    return pixels if space is None else latents_of(pixels, space, cache)


def reference_images(cell: Cell, images: CellImages, cache: Path) -> Images:
    """The images that samples are compared with: real ones, or the autoencoder's reconstructions of them."""
    if cell.reference.images == "pixels":
        return images.reference
    assert cell.latents is not None, "the plan refuses reconstructions without an autoencoder"
    if cell.reference.split == "train":
        return reconstructions_of(images.train, cell.latents, cache)
    assert isinstance(images.reference, Subset), "the reference is a subset of the held-out images"
    return Subset(reconstructions_of(images.validation, cell.latents, cache), images.reference.indices)


def _transforms(cell: Cell) -> list[Transform]:
    """The transforms of a cell's images, ready to be called."""
    steps: list[Transform] = []
    for transform in cell.transforms:
        spec = catalogue().get("transform", transform.name)
        steps.append(functools.partial(spec.load(), spec.make_options(transform.options)))
    return steps
