"""The training loop: AdamW on the loss of the prediction, an EMA of the weights, and a stop at the budget.

The images, times, noise, flips, crops and drop-path masks of step s depend only on (seed, s). They are the same for
every scan and backbone, and after a restart.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.data.images import Images
from zigma_bench.diffusion.guidance import TextLookup
from zigma_bench.errors import Interrupted, NotFinite
from zigma_bench.layers.speed import compile_network
from zigma_bench.plan.cells import NetworkCondition
from zigma_bench.suite import Train
from zigma_bench.training.batch_plan import BatchPlan, StepImages
from zigma_bench.training.checkpoint import load_checkpoint, save_checkpoint
from zigma_bench.training.ema import ema_decay
from zigma_bench.training.evaluation import Evaluation
from zigma_bench.training.fault import find_fault, uncompiled_copy
from zigma_bench.training.feed import Feed
from zigma_bench.training.health import Health
from zigma_bench.training.step import Batch, TrainStep, autocast, draw_batch, loss_of, to_floats

CHECK_STEPS = 20  # steps between checks of the losses, and between points of the loss curve


@dataclass
class TrainingProgress:
    """The progress of a training: completed steps, training time, and the curve of (images, mean loss).

    `scaling`: the loss scale of fp16 and the number of skipped steps; empty for other precisions. `waited`: the part of
    `seconds` that the training spent waiting for images, which `workers` processes load ahead. `quality`: the points of
    an `Evaluation`.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    scaling: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    workers: int = 0
    quality: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingGoal:
    """The budget of a training, in steps or in seconds."""

    steps: int | None
    seconds: float | None

    def fraction(self, progress: TrainingProgress) -> float:
        """The used share of the budget, from 0 to 1."""
        if self.steps is not None:
            return progress.step / self.steps
        assert self.seconds is not None
        return min(1.0, progress.seconds / self.seconds)


def train_network(
    network: nn.Module,
    images: Images,
    *,
    recipe: Train,
    goal: TrainingGoal,
    seed: int,
    device: torch.device,
    folder: Path,
    on_progress: Callable[[int, str], None],
    stopped: Callable[[], bool],
    condition: NetworkCondition | None = None,
    texts: TextLookup | None = None,
    evaluation: Evaluation | None = None,
) -> tuple[nn.Module, TrainingProgress]:
    """Train a network in place and return its EMA and the progress. Resumes from the checkpoints in `folder`.

    `condition`: the conditioning of the network; the labels come from `images`. For text conditioning the labels are
    text numbers, and `texts` maps them to features. `on_progress(images, text)` reports progress. `evaluation`: what
    is measured during training; its time isn't part of the progress.

    Raises Interrupted after `stopped()` returns true. Raises NotFinite if a loss or a gradient is not finite, and names
    the step and the module where this began.
    """
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    health = Health(device, scaled=recipe.precision == "fp16")
    train_step = TrainStep(network, ema, recipe, health, device)
    saved = load_checkpoint(folder, network, ema, train_step.optimizer)
    progress = _resumed_progress(saved) if saved else TrainingProgress()
    losses: list[Tensor] = [torch.tensor(value, device=device) for value in saved["losses"]] if saved else []
    if saved:
        health.resume(progress.step, saved["health"])

    def batch_of(step: int, loaded: StepImages | None = None) -> Batch:
        return draw_batch(images, recipe, seed, step, device, condition, texts, loaded)

    def check_losses() -> list[float]:
        """The losses since the last check; NotFinite after a bad step. Waits for the device."""
        if bad := int(health.first_bad):
            loss = losses[bad - 1 - progress.step]
            raise _not_finite_error(network, batch_of, recipe, bad, float(loss), health)
        values: list[float] = torch.stack(losses).double().tolist() if losses else []
        return values

    network.train()
    if recipe.compile:
        compile_network(network, device.type)
    batch_plan = BatchPlan.of(images, recipe, seed, labelled=condition is not None)
    _warm_up(
        network, batch_plan, recipe, device, condition, texts
    )  # decoding and compiling must not count as training time
    with Feed(batch_plan, recipe, start=progress.step, stop=goal.steps, on_gpu=device.type == "cuda") as feed:
        waited, progress.workers = progress.waited, feed.workers
        started, last_save = time.monotonic() - progress.seconds, time.monotonic()
        while goal.fraction(progress) < 1:
            rate = learning_rate(recipe, progress.step * recipe.batch, goal.fraction(progress))
            decay = ema_decay(recipe, progress.step)
            losses.append(train_step(batch_of(progress.step, feed(progress.step)), rate, decay))
            progress.step += 1
            due = evaluation is not None and evaluation.is_due(progress.step * recipe.batch, recipe.batch)
            if due:
                check_losses()  # waits for the device, so that the time of its steps is counted
            progress.seconds = time.monotonic() - started
            progress.waited = waited + feed.waited
            done = goal.fraction(progress) >= 1
            if len(losses) == CHECK_STEPS or done:
                values = check_losses()
                losses.clear()
                progress.curve.append((progress.step * recipe.batch, sum(values) / len(values)))
                on_progress(progress.step * recipe.batch, f"loss {progress.curve[-1][1]:.4f}")
            if evaluation is not None and (due or done):
                seen = progress.step * recipe.batch
                progress.quality.append(evaluation.measure_point(ema, seen, progress.seconds, device))
                started = time.monotonic() - progress.seconds
            stop = stopped() and not done
            if stop or time.monotonic() - last_save > recipe.checkpoint_seconds:
                state = {
                    "seconds": progress.seconds, "curve": progress.curve, "losses": check_losses(),
                    "health": health.state(), "waited": progress.waited, "quality": progress.quality,
                }  # fmt: skip
                save_checkpoint(folder, progress.step, network, ema, train_step.optimizer, state)
                last_save = time.monotonic()
                started = last_save - progress.seconds
            if stop:
                raise Interrupted(f"stopped after {progress.step} steps; the checkpoint is saved")
    progress.scaling = health.state() if health.scaled else {}
    return ema, progress


def _resumed_progress(saved: dict[str, Any]) -> TrainingProgress:
    """The progress stored in a checkpoint."""
    curve = [tuple(point) for point in saved["curve"]]
    return TrainingProgress(saved["step"], saved["seconds"], curve, waited=saved["waited"], quality=saved["quality"])


def learning_rate(recipe: Train, images: int, fraction: float) -> float:
    """The learning rate after `images` images and `fraction` of the budget: linear warm-up, then constant or cosine."""
    rate = recipe.learning_rate
    if images < recipe.warmup_images:
        rate *= (images + recipe.batch) / (recipe.warmup_images + recipe.batch)
    if recipe.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * fraction))
    return rate


def _warm_up(
    network: nn.Module,
    batch_plan: BatchPlan,
    recipe: Train,
    device: torch.device,
    condition: NetworkCondition | None,
    texts: TextLookup | None,
) -> None:
    """Run the network once, to decode the images and build the kernels. Weights and gradients don't change."""
    count = recipe.batch if recipe.compile else 1  # torch.compile specializes on the batch size and on gradients
    x = to_floats(torch.from_numpy(batch_plan.example_pixels(count)), device)
    with torch.set_grad_enabled(recipe.compile), autocast(recipe, device):
        y: tuple[Tensor, ...] = () if condition is None else (torch.zeros(count, dtype=torch.int64, device=device),)
        inputs = y if texts is None else texts(*y)
        loss = network(x, torch.zeros(count, device=device), *inputs).float().mean()
    if recipe.compile:
        loss.backward()
        network.zero_grad(set_to_none=True)


def _not_finite_error(
    network: nn.Module, batch_of: Callable[[int], Batch], recipe: Train, step: int, loss: float, health: Health
) -> NotFinite:
    """The error for the first bad step, counted from 1. Runs the step again, with the weights before it."""
    what = f"the loss became {loss}" if not math.isfinite(loss) else "the gradient became infinite or NaN"
    watched = uncompiled_copy(network) if recipe.compile else network
    network.zero_grad(set_to_none=True)

    def run() -> Tensor:
        again = loss_of(watched, batch_of(step - 1), recipe)
        health.backward(again)
        return again

    place = find_fault(watched, run)
    where = f"it began {place}" if place else "when run again, the same step was finite"
    do = "lower the learning rate" + (", or use precision bf16" if recipe.precision == "fp16" else "")
    return NotFinite(f"{what} at step {step}: {where}", do=do)
