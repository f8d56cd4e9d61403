"""The stage `train`: train a network for the budget of the suite."""

from __future__ import annotations

from pathlib import Path

import torch

from zigma_bench.backbones.build import build_network
from zigma_bench.data.cell_images import network_inputs
from zigma_bench.data.images import Splits
from zigma_bench.data.reading.counts import facts_of_images
from zigma_bench.records.record import Measurement
from zigma_bench.records.store import EMA
from zigma_bench.run.stages.context import NETWORK, StageContext, StageResult
from zigma_bench.training.checkpoint import save_weights
from zigma_bench.training.loop import TrainingGoal, train_network


def train_stage(context: StageContext, folder: Path) -> StageResult:
    """Train for the budget, and write the weights and their EMA."""
    cell, images = context.cell, context.images("train")
    classes = cell.condition.size if cell.condition is not None and cell.condition.kind == "class" else None
    available = facts_of_images(Splits(images.train, images.validation), classes)
    network = build_network(cell, context.device.type).to(context.device.name)
    total = None if cell.train_steps is None else cell.train_steps * cell.train.batch
    ema, progress = train_network(
        network,
        network_inputs(cell, images, context.cache).train,
        recipe=cell.train,
        goal=TrainingGoal(cell.train_steps, cell.train_seconds),
        seed=cell.seed,
        device=torch.device(context.device.name),
        folder=folder,
        on_progress=context.progress_of("train", total),
        stopped=context.stopped,
        condition=cell.condition,
        texts=images.texts,
    )
    save_weights(folder / EMA, ema)
    save_weights(folder / NETWORK, network)
    seen = progress.step * cell.train.batch
    loss = Measurement.of(
        "train-loss", progress.curve[-1][1], "1", fingerprint={"images": seen, **cell.objective_facts}
    )
    details = {"images": seen, "steps": progress.step, "seconds": progress.seconds, "curve": progress.curve}
    waited = {"input_wait": progress.waited / progress.seconds, "input_workers": progress.workers}  # share of seconds
    scaling = {"scaling": progress.scaling} if progress.scaling else {}
    return StageResult([loss], details | available | waited | scaling, (EMA, NETWORK))
