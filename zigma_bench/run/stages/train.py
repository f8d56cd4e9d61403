"""The stage `train`: train a network for the budget of the suite."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from zigma_bench.backbones.build import build_network
from zigma_bench.data.cell_images import describe_parts, network_inputs
from zigma_bench.data.images import Images, Splits
from zigma_bench.data.reading.counts import facts_of_images
from zigma_bench.diffusion.guidance import TextLookup
from zigma_bench.metrics.val_loss import TUNING, first_images, measure_loss
from zigma_bench.records.record import Measurement
from zigma_bench.records.store import EMA
from zigma_bench.run.stages.context import NETWORK, StageContext, StageResult
from zigma_bench.run.stages.denoiser import denoiser_of, velocity_of
from zigma_bench.run.stages.during import evaluation_of
from zigma_bench.training.checkpoint import save_weights
from zigma_bench.training.loop import TrainingGoal, train_network


def train_stage(context: StageContext, folder: Path) -> StageResult:
    """Train for the budget, and write the weights and their EMA."""
    cell, images = context.cell, context.images("train")
    classes = cell.condition.size if cell.condition is not None and cell.condition.kind == "class" else None
    available = facts_of_images(Splits(images.train, images.validation), classes)
    network = build_network(cell, context.device.type).to(context.device.name)
    total = None if cell.train_steps is None else cell.train_steps * cell.train.batch
    inputs = network_inputs(cell, images, context.cache)
    ema, progress = train_network(
        network,
        inputs.train,
        recipe=cell.train,
        goal=TrainingGoal(cell.train_steps, cell.train_seconds),
        seed=cell.seed,
        device=torch.device(context.device.name),
        folder=folder,
        on_progress=context.progress_of("train", total),
        stopped=context.stopped,
        condition=cell.condition,
        texts=images.texts,
        evaluation=evaluation_of(context, images, inputs),
    )
    save_weights(folder / EMA, ema)
    save_weights(folder / NETWORK, network)
    seen = progress.step * cell.train.batch
    loss = Measurement.of(
        "train-loss", progress.curve[-1][1], "1", fingerprint={"images": seen, **cell.objective_facts}
    )
    tuned = [] if inputs.tuning is None else [_tuning_loss(context, ema, inputs.tuning, images.texts)]
    details = {
        "images": seen,
        "epochs": seen / len(images.train),
        "steps": progress.step,
        "seconds": progress.seconds,
        "curve": progress.curve,
    }
    waited = {"input_wait": progress.waited / progress.seconds, "input_workers": progress.workers}  # share of seconds
    scaling = {"scaling": progress.scaling} if progress.scaling else {}
    parts = {"parts": describe_parts(images)} if images.tuning is not None else {}
    during = {"during": progress.quality} if progress.quality else {}
    return StageResult([loss, *tuned], details | available | waited | scaling | parts | during, (EMA, NETWORK))


def _tuning_loss(context: StageContext, ema: nn.Module, images: Images, texts: TextLookup | None) -> Measurement:
    """The loss of the averaged weights on the tuning part, by which a learning rate is chosen."""
    cell, device = context.cell, context.device.name
    assert cell.tuning is not None, "a cell with tuning images has a tuning part"
    network = velocity_of(denoiser_of(ema, cell, torch.device(device)), cell, texts)
    chosen = first_images(images, cell.tuning.loss_images)
    facts = {"part": "tuning", "fraction": cell.tuning.fraction, "seed": cell.tuning.seed}
    labelled = cell.condition is not None
    return measure_loss(TUNING, chosen, network, labelled=labelled, device=device, facts=facts)
