"""The stage `sample`: images sampled from a network, held-out images (floor) or their reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from zigma_bench.conditioning.captioned import CaptionedImages
from zigma_bench.data.cell_images import network_inputs
from zigma_bench.data.images import Pixels, Subset
from zigma_bench.data.latents.autoencoder import open_autoencoder
from zigma_bench.records.sealed import Parts
from zigma_bench.records.store import SAMPLES, write_json
from zigma_bench.run.stages.context import StageContext, StageResult
from zigma_bench.run.stages.denoiser import load_denoiser
from zigma_bench.sampling.cell_images import (
    CAPTIONS,
    SampleConditions,
    assign_rows,
    sample_images,
    sample_in_parts,
    save_array,
    to_pixels,
)
from zigma_bench.sampling.sheets import write_sheets


def sample_stage(context: StageContext, folder: Path) -> StageResult:
    """Sample the images in parts, and write overview pictures of the first ones. The floor's samples are held-out
    images.

    The autoencoder decodes both sampled latents and those of held-out images.
    """
    cell, on_progress = context.cell, context.progress_of("sample", context.cell.sample.count)
    parts = Parts(folder, context.inputs("sample"))
    if cell.role == "floor":
        pixels, evaluations = context.images("sample").floor.take(range(cell.sample.count)), 0
        save_array(folder / SAMPLES, pixels)
    elif cell.role == "reconstruction":
        reconstruct = _reconstruction_function(context)
        pixels, evaluations = sample_in_parts(
            cell, parts, lambda rows: (reconstruct(rows), 0), on_progress, context.stopped
        )
    else:
        network, decode, condition = load_denoiser(context), _pixel_decoder(context), _text_condition(context, folder)
        pixels, evaluations = sample_images(
            cell, parts, network, context.device, on_progress, context.stopped, decode, condition
        )
    write_sheets(folder, pixels)
    files = (SAMPLES,) if cell.text is None or cell.role != "cell" else (SAMPLES, CAPTIONS)
    return StageResult([], {"count": len(pixels), "evaluations": evaluations}, files)


def _text_condition(context: StageContext, folder: Path) -> SampleConditions | None:
    """The text of each image, also written to a file. All scans and seeds use the same texts.

    These are the texts of the held-out images, in a fixed order. None for a cell without text conditioning.
    """
    if context.cell.text is None:
        return None
    images = context.images("sample")
    held_out = images.validation
    assert isinstance(held_out, CaptionedImages) and images.texts is not None
    rows, turns = assign_rows(context.cell.sample.count, len(held_out))
    texts = [found[turn % len(found)] for found, turn in zip(held_out.captions(rows), turns.tolist(), strict=True)]
    write_json(folder / CAPTIONS, texts)
    return SampleConditions(held_out.turn_labels(rows, turns), images.texts.null, images.texts)


def _pixel_decoder(context: StageContext) -> Callable[[Tensor], Pixels]:
    """The function that converts samples of the network to pixels."""
    if context.cell.latents is None:
        return to_pixels
    autoencoder = open_autoencoder(context.cell.latents, context.device.name)
    return lambda latents: to_pixels(autoencoder.decode(latents))


def _reconstruction_function(context: StageContext) -> Callable[[range], Pixels]:
    """The function that reconstructs images of the floor, from the same latents that networks are measured on."""
    images, decode = context.images("sample"), _pixel_decoder(context)
    latents = Subset(network_inputs(context.cell, images, context.cache).validation, images.floor.indices)
    return lambda rows: decode(torch.from_numpy(latents.take(rows)))
