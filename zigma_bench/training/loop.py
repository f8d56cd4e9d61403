"""Training: AdamW on the velocity loss, an EMA of the weights, and a stop at the budget.

Step s of seed i takes its images, times, noise, flips and dropped paths from (i, s) alone: the same for every scan and
backbone, and the same after a restart.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zigma_bench.diffusion.objective import prediction_loss
from zigma_bench.errors import Interrupted, NotFinite
from zigma_bench.images import Images, Pixels
from zigma_bench.models.speed import compile_network
from zigma_bench.suite import Train
from zigma_bench.training.checkpoint import load_checkpoint, save_checkpoint
from zigma_bench.training.ema import update_ema

CHECK_STEPS = 20  # how often the losses are looked at, and a point of the curve is kept


@dataclass
class Progress:
    """Where a training stands: steps done, seconds spent training, and the curve of (images, mean loss)."""

    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)


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
) -> tuple[nn.Module, Progress]:
    """Train a network in place and give its EMA and how it went; resumes from `folder` and checkpoints into it.

    `tell(images, text)` reports progress. Raises NotFinite when a loss is NaN, Interrupted when `stopped()`.
    """
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    saved = load_checkpoint(folder, network, ema, optimizer)
    progress = Progress(saved["step"], saved["seconds"], [tuple(p) for p in saved["curve"]]) if saved else Progress()
    losses: list[Tensor] = [torch.tensor(value, device=device) for value in saved["losses"]] if saved else []
    network.train()
    if recipe.compile:
        compile_network(network, device.type)
    _warm_up(network, images, recipe, device)  # decoding and compiling are not the network's time
    started, last_save = time.monotonic() - progress.seconds, time.monotonic()
    while goal.fraction(progress) < 1:
        rate = learning_rate(recipe, progress.step * recipe.batch, goal.fraction(progress))
        losses.append(train_step(network, optimizer, images, recipe, seed, progress.step, rate, device))
        update_ema(ema, network, recipe.ema)
        progress.step += 1
        progress.seconds = time.monotonic() - started
        done = goal.fraction(progress) >= 1
        if len(losses) == CHECK_STEPS or done:
            values = _finite(losses, progress.step)
            losses.clear()
            progress.curve.append((progress.step * recipe.batch, sum(values) / len(values)))
            tell(progress.step * recipe.batch, f"loss {progress.curve[-1][1]:.4f}")
        stop = stopped() and not done
        if stop or time.monotonic() - last_save > recipe.checkpoint_seconds:
            state = {"seconds": progress.seconds, "curve": progress.curve, "losses": _finite(losses, progress.step)}
            save_checkpoint(folder, progress.step, network, ema, optimizer, state)
            last_save = time.monotonic()
            started = last_save - progress.seconds
        if stop:
            raise Interrupted(f"stopped after {progress.step} steps; a checkpoint is written")
    return ema, progress


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    recipe: Train,
    seed: int,
    step: int,
    rate: float,
    device: torch.device,
) -> Tensor:
    """One optimiser step; gives the mean loss of the batch, still on the device."""
    x1 = to_floats(images.take(batch_indices(len(images), recipe.batch, seed, step)), device)
    torch.manual_seed(_step_seed(seed, step, 4))  # dropped paths, drawn apart from what follows
    draw = torch.Generator(device).manual_seed(_step_seed(seed, step, 2))
    t = torch.rand(len(x1), generator=draw, device=device)
    x0 = torch.randn(x1.shape, generator=draw, device=device)
    if recipe.flip:
        flipped = torch.rand(len(x1), 1, 1, 1, generator=draw, device=device) < 0.5
        x1 = torch.where(flipped, x1.flip(-1), x1)
    for group in optimizer.param_groups:
        group["lr"] = rate
    with autocast(recipe, device):
        loss = prediction_loss(network, x1, x0, t).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.gradient_clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
    optimizer.step()
    return loss.detach()


def learning_rate(recipe: Train, images: int, fraction: float) -> float:
    """The rate after `images` images and `fraction` of the budget: linear warm-up, then constant or half a cosine."""
    rate = recipe.learning_rate
    if images < recipe.warmup_images:
        rate *= (images + recipe.batch) / (recipe.warmup_images + recipe.batch)
    if recipe.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * fraction))
    return rate


def batch_indices(count: int, batch: int, seed: int, step: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The images of a step: epoch after epoch, each in an order drawn from (seed, epoch)."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs, places = np.divmod(positions, count)
    indices = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, int(epoch), 1]).permutation(count)
        indices[epochs == epoch] = order[places[epochs == epoch]]
    return indices


def to_floats(pixels: Pixels, device: torch.device) -> Tensor:
    """uint8 [B, C, H, W] -> float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).float().div_(127.5).sub_(1)


def autocast(recipe: Train, device: torch.device) -> torch.autocast:
    """bf16 where the recipe says so, or where it says `auto` and the device is a GPU; else float32."""
    enabled = recipe.precision == "bf16" or (recipe.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _warm_up(network: nn.Module, images: Images, recipe: Train, device: torch.device) -> None:
    """Decode the images and build the kernels: one pass that leaves nothing behind."""
    count = recipe.batch if recipe.compile else 1  # what is compiled is compiled for a batch, and for gradients
    x = to_floats(images.take([0] * count), device)
    with torch.set_grad_enabled(recipe.compile), autocast(recipe, device):
        loss = network(x, torch.zeros(count, device=device)).float().mean()
    if recipe.compile:
        loss.backward()
        network.zero_grad(set_to_none=True)


def _finite(losses: list[Tensor], step: int) -> list[float]:
    """The losses of the last steps up to `step`; NotFinite names the first that is none."""
    values: list[float] = torch.stack(losses).double().tolist() if losses else []
    for back, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        if not math.isfinite(value):
            raise NotFinite(f"the loss became {value} at step {step - back}", do="lower the learning rate")
    return values


def _step_seed(seed: int, step: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> 1)
