"""Training: AdamW on the loss of the recipe's prediction, an EMA of the weights, and a stop at the budget.

Step s of seed i takes its images, times, noise, flips, crops and dropped paths from (i, s) alone: the same for every
scan and backbone, and the same after a restart.
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
from zigma_bench.diffusion.guidance import Texts
from zigma_bench.errors import Interrupted, NotFinite
from zigma_bench.layers.speed import compile_network
from zigma_bench.plan.cells import Given
from zigma_bench.suite import Train
from zigma_bench.training.checkpoint import load_checkpoint, save_checkpoint
from zigma_bench.training.ema import ema_decay
from zigma_bench.training.fault import find_fault, uncompiled
from zigma_bench.training.feed import Feed
from zigma_bench.training.health import Health
from zigma_bench.training.job import Job, Taken
from zigma_bench.training.step import Batch, Descent, autocast, draw_batch, loss_of, to_floats

CHECK_STEPS = 20  # how often the losses are looked at, and a point of the curve is kept


@dataclass
class Progress:
    """Where a training stands: steps done, seconds spent training, and the curve of (images, mean loss).

    `scaling` holds the loss scale of fp16 and the steps that it skipped; other precisions have none. `waited`: the
    seconds of them in which the training waited for its images, which `workers` processes take ahead.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    scaling: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    workers: int = 0


@dataclass(frozen=True)
class Goal:
    """What ends a training: so many steps, or so many seconds."""

    steps: int | None
    seconds: float | None

    def fraction(self, progress: Progress) -> float:
        """How much of the budget is spent, from 0 to 1."""
        if self.steps is not None:
            return progress.step / self.steps
        assert self.seconds is not None
        return min(1.0, progress.seconds / self.seconds)


def train(
    network: nn.Module,
    images: Images,
    *,
    recipe: Train,
    goal: Goal,
    seed: int,
    device: torch.device,
    folder: Path,
    tell: Callable[[int, str], None],
    stopped: Callable[[], bool],
    given: Given | None = None,
    texts: Texts | None = None,
) -> tuple[nn.Module, Progress]:
    """Train a network in place and give its EMA and how it went; resumes from `folder` and checkpoints into it.

    `given`: what the network is conditioned on, which the images must know of themselves; of texts they know the
    numbers, and `texts` gives the features.
    `tell(images, text)` reports progress. Raises Interrupted when `stopped()`, and NotFinite when a loss or a gradient
    is not finite, with the step and the place in the network where that began.
    """
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    health = Health(device, scaled=recipe.precision == "fp16")
    descent = Descent(network, ema, recipe, health, device)
    saved = load_checkpoint(folder, network, ema, descent.optimizer)
    progress = _resumed(saved) if saved else Progress()
    losses: list[Tensor] = [torch.tensor(value, device=device) for value in saved["losses"]] if saved else []
    if saved:
        health.resume(progress.step, saved.get("health"))

    def batch_of(step: int, taken: Taken | None = None) -> Batch:
        return draw_batch(images, recipe, seed, step, device, given, texts, taken)

    def look() -> list[float]:
        """The losses since the last look; waits for the device."""
        if bad := int(health.first_bad):
            loss = losses[bad - 1 - progress.step]
            raise _fault(network, batch_of, recipe, bad, float(loss), health)
        values: list[float] = torch.stack(losses).double().tolist() if losses else []
        return values

    network.train()
    if recipe.compile:
        compile_network(network, device.type)
    job = Job.of(images, recipe, seed, labelled=given is not None)
    _warm_up(network, job, recipe, device, given, texts)  # decoding and compiling are not the network's time
    with Feed(job, recipe, start=progress.step, stop=goal.steps, card=device.type == "cuda") as feed:
        waited, progress.workers = progress.waited, feed.workers
        started, last_save = time.monotonic() - progress.seconds, time.monotonic()
        while goal.fraction(progress) < 1:
            rate = learning_rate(recipe, progress.step * recipe.batch, goal.fraction(progress))
            decay = ema_decay(recipe, progress.step)
            losses.append(descent(batch_of(progress.step, feed(progress.step)), rate, decay))
            progress.step += 1
            progress.seconds = time.monotonic() - started
            progress.waited = waited + feed.waited
            done = goal.fraction(progress) >= 1
            if len(losses) == CHECK_STEPS or done:
                values = look()
                losses.clear()
                progress.curve.append((progress.step * recipe.batch, sum(values) / len(values)))
                tell(progress.step * recipe.batch, f"loss {progress.curve[-1][1]:.4f}")
            stop = stopped() and not done
            if stop or time.monotonic() - last_save > recipe.checkpoint_seconds:
                state = {
                    "seconds": progress.seconds, "curve": progress.curve, "losses": look(), "health": health.state(),
                    "waited": progress.waited,
                }  # fmt: skip
                save_checkpoint(folder, progress.step, network, ema, descent.optimizer, state)
                last_save = time.monotonic()
                started = last_save - progress.seconds
            if stop:
                raise Interrupted(f"stopped after {progress.step} steps; a checkpoint is written")
    progress.scaling = health.state() if health.scaled else {}
    return ema, progress


def _resumed(saved: dict[str, Any]) -> Progress:
    """Where a checkpoint says that the training stood."""
    curve = [tuple(point) for point in saved["curve"]]
    return Progress(saved["step"], saved["seconds"], curve, waited=saved.get("waited", 0.0))


def learning_rate(recipe: Train, images: int, fraction: float) -> float:
    """The rate after `images` images and `fraction` of the budget: linear warm-up, then constant or half a cosine."""
    rate = recipe.learning_rate
    if images < recipe.warmup_images:
        rate *= (images + recipe.batch) / (recipe.warmup_images + recipe.batch)
    if recipe.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * fraction))
    return rate


def _warm_up(
    network: nn.Module,
    job: Job,
    recipe: Train,
    device: torch.device,
    given: Given | None,
    texts: Texts | None,
) -> None:
    """Decode the images and build the kernels: one pass that leaves nothing behind."""
    count = recipe.batch if recipe.compile else 1  # what is compiled is compiled for a batch, and for gradients
    x = to_floats(torch.from_numpy(job.like(count)), device)
    with torch.set_grad_enabled(recipe.compile), autocast(recipe, device):
        y: tuple[Tensor, ...] = () if given is None else (torch.zeros(count, dtype=torch.int64, device=device),)
        told = y if texts is None else texts(*y)
        loss = network(x, torch.zeros(count, device=device), *told).float().mean()
    if recipe.compile:
        loss.backward()
        network.zero_grad(set_to_none=True)


def _fault(
    network: nn.Module, batch_of: Callable[[int], Batch], recipe: Train, step: int, loss: float, health: Health
) -> NotFinite:
    """What to say of the first bad step, counted from 1: it is run again from the weights that it began with."""
    what = f"the loss became {loss}" if not math.isfinite(loss) else "the gradient became infinite or NaN"
    watched = uncompiled(network) if recipe.compile else network
    network.zero_grad(set_to_none=True)

    def run() -> Tensor:
        again = loss_of(watched, batch_of(step - 1), recipe)
        health.backward(again)
        return again

    place = find_fault(watched, run)
    where = f"it began {place}" if place else "run again, the same step was finite"
    do = "lower the learning rate" + (", or take precision bf16" if recipe.precision == "fp16" else "")
    return NotFinite(f"{what} at step {step}: {where}", do=do)
