"""What sampling needs besides the network: the pixels of its output, and the texts of the samples."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zigma_bench.conditioning.captioned import CaptionedImages
from zigma_bench.data.cell_images import CellImages
from zigma_bench.data.images import Pixels
from zigma_bench.data.latents.autoencoder import open_autoencoder
from zigma_bench.plan import Cell
from zigma_bench.sampling.cell_images import SampleConditions, assign_rows, to_pixels


def pixel_decoder(cell: Cell, device: str) -> Callable[[Tensor], Pixels]:
    """The function that converts samples of the network to pixels."""
    if cell.latents is None:
        return to_pixels
    autoencoder = open_autoencoder(cell.latents, device)
    return lambda latents: to_pixels(autoencoder.decode(latents))


def text_conditions(images: CellImages, count: int) -> tuple[list[str], SampleConditions]:
    """The text of each of `count` samples, and their condition. All scans and seeds use the same texts.

    These are the texts of the held-out images, in a fixed order.
    """
    held_out = images.validation
    assert isinstance(held_out, CaptionedImages) and images.texts is not None
    rows, turns = assign_rows(count, len(held_out))
    texts = [found[turn % len(found)] for found, turn in zip(held_out.captions(rows), turns.tolist(), strict=True)]
    return texts, SampleConditions(held_out.turn_labels(rows, turns), images.texts.null, images.texts)
