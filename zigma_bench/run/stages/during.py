"""What a cell measures during training: the losses on held-out and on training images, and metrics of samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from zigma_bench.data.cell_images import CellImages, NetworkInputs, reference_images
from zigma_bench.data.images import ArrayImages, Images
from zigma_bench.data.parts import pick_training_images
from zigma_bench.diffusion.convert import Network
from zigma_bench.metrics.apply import measure_metric
from zigma_bench.metrics.subject import Subject
from zigma_bench.metrics.val_loss import first_images, velocity_losses
from zigma_bench.plan import check_during_images
from zigma_bench.plan.cells import DuringTraining
from zigma_bench.records.record import Measurement
from zigma_bench.run.stages.context import StageContext
from zigma_bench.run.stages.denoiser import denoiser_of, velocity_of
from zigma_bench.run.stages.drawing import pixel_decoder, text_conditions
from zigma_bench.sampling.cell_images import part_ranges, sample_part
from zigma_bench.training.evaluation import Evaluation, Values

VALIDATION, TRAINING, GAP, GAP_ERROR = "val-loss", "train-loss", "train-minus-val-loss", "train-minus-val-loss-error"


def evaluation_of(context: StageContext, images: CellImages, inputs: NetworkInputs) -> Evaluation | None:
    """What is measured during the training of a cell; None for a suite without `during`.

    NotReady if there are too few images for the losses.
    """
    cell, during = context.cell, context.cell.during
    if during is None:
        return None
    check_during_images(
        during.images, len(inputs.train), len(inputs.loss), "those of the validation loss", "during.images"
    )
    held_out, trained = first_images(inputs.loss, during.images), pick_training_images(cell, inputs.train)
    judge = _sample_judge(context, during, images) if during.metrics else None

    def measure(ema: nn.Module) -> tuple[Values, dict[str, str]]:
        network = velocity_of(denoiser_of(ema, cell, torch.device(context.device.name)), cell, images.texts)
        values = _losses(context, network, held_out, trained)
        found = [] if judge is None else judge(ema)
        values |= {measurement.name: measurement.value for measurement in found}
        return values, {m.name: m.reason for m in found if m.reason is not None}

    return Evaluation(during.every, len(inputs.train), measure)


def _losses(context: StageContext, network: Network, held_out: Images, trained: Images) -> Values:
    """The losses on held-out and on training images, at the same times and with the same noise, and their difference,
    the generalization gap, with its standard error: the two sets contain different images."""
    labelled, device = context.cell.condition is not None, context.device.name
    parts = (held_out, trained)
    losses = [velocity_losses(network, part, labelled=labelled, device=device).mean(1) for part in parts]
    found = [float(each.mean()) for each in losses]
    error = math.sqrt(sum(float(each.var()) / max(1, len(each) - 1) for each in losses))
    values = {VALIDATION: found[0], TRAINING: found[1], GAP: found[1] - found[0], GAP_ERROR: error}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _sample_judge(
    context: StageContext, during: DuringTraining, images: CellImages
) -> Callable[[nn.Module], list[Measurement]]:
    """The function that samples from the averaged weights and measures the metrics."""
    cell, device = context.cell, context.device
    few = cell.model_copy(update={"sample": cell.sample.model_copy(update={"count": during.samples})})
    decode, reference = pixel_decoder(cell, device.name), reference_images(cell, images, context.cache)
    conditions = None if cell.text is None else text_conditions(images, during.samples)[1]
    facts = {"data": cell.data_text, "split": cell.reference.label}

    def judge(ema: nn.Module) -> list[Measurement]:
        denoiser = denoiser_of(ema, cell, torch.device(device.name))
        parts = [
            decode(sample_part(few, indices, denoiser, device, conditions)[0])
            for indices in part_ranges(during.samples, cell.sample.batch)
        ]
        subject = Subject(
            samples=ArrayImages(np.concatenate(parts)), reference=reference, reference_facts=facts, device=device.name,
            cache=context.cache,
        )  # fmt: skip
        return [measure_metric(metric.name, metric.options, subject) for metric in during.metrics]

    return judge
