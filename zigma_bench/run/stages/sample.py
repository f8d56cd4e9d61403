"""The stage `sample`: images sampled from a network, held-out images (floor) or their reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from zigma_bench.data.cell_images import network_inputs
from zigma_bench.data.images import Pixels, Subset
from zigma_bench.records.sealed import Parts
from zigma_bench.records.store import SAMPLES, write_json
from zigma_bench.run.stages.context import StageContext, StageResult
from zigma_bench.run.stages.denoiser import load_denoiser
from zigma_bench.run.stages.drawing import pixel_decoder, text_conditions
from zigma_bench.sampling.cell_images import (
    CAPTIONS,
    SampleConditions,
    sample_images,
    sample_in_parts,
    save_array,
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
        network, decode = load_denoiser(context), pixel_decoder(cell, context.device.name)
        condition = _text_condition(context, folder)
        pixels, evaluations = sample_images(
            cell, parts, network, context.device, on_progress, context.stopped, decode, condition
        )
    write_sheets(folder, pixels)
    files = (SAMPLES,) if cell.text is None or cell.role != "cell" else (SAMPLES, CAPTIONS)
    return StageResult([], {"count": len(pixels), "evaluations": evaluations}, files)


def _text_condition(context: StageContext, folder: Path) -> SampleConditions | None:
    """The text of each image, also written to a file; None for a cell without text conditioning."""
    if context.cell.text is None:
        return None
    texts, conditions = text_conditions(context.images("sample"), context.cell.sample.count)
    write_json(folder / CAPTIONS, texts)
    return conditions


def _reconstruction_function(context: StageContext) -> Callable[[range], Pixels]:
    """The function that reconstructs images of the floor, from the same latents that networks are measured on."""
    images, decode = context.images("sample"), pixel_decoder(context.cell, context.device.name)
    latents = Subset(network_inputs(context.cell, images, context.cache).validation, images.floor.indices)
    return lambda rows: decode(torch.from_numpy(latents.take(rows)))
