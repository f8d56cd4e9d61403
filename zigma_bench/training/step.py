"""One training step: its batch, drawn from (seed, step) alone, the loss, the optimizer update and the EMA update.

On an NVIDIA GPU a step can be captured as a CUDA graph and replayed (`train.graph`). The graph reads its inputs from
fixed tensors, including the learning rate and the EMA decay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zigma_bench.data.images import Images
from zigma_bench.diffusion.guidance import TextLookup, with_condition
from zigma_bench.diffusion.objective import prediction_loss
from zigma_bench.layers.speed import record_graph, require_gpu
from zigma_bench.plan.cells import NetworkCondition
from zigma_bench.plan.diffusion import objective_of
from zigma_bench.suite import Train
from zigma_bench.system.device import precision_on
from zigma_bench.training.batch_plan import BatchPlan, LatentPosteriors, StepImages, step_seed
from zigma_bench.training.ema import update_ema
from zigma_bench.training.health import Health


@dataclass(frozen=True)
class Batch:
    """Images or clips x1 and noise x0 [B, ..., C, H, W], times t [B] and the condition, on the device.

    The condition is absent, labels y [B], or text features y [B, S, C] with an optional mask [B, S].
    """

    x1: Tensor
    x0: Tensor
    t: Tensor
    y: Tensor | None = None
    mask: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.x1, self.x0, self.t, *(self.condition or ()))

    @property
    def condition(self) -> tuple[Tensor, ...] | None:
        """The inputs of the network after x and t; None without conditioning."""
        found = tuple(tensor for tensor in (self.y, self.mask) if tensor is not None)
        return found or None


class TrainStep:
    """Performs training steps: updates a network, its EMA and its optimizer with one batch at a time."""

    def __init__(self, network: nn.Module, ema: nn.Module, recipe: Train, health: Health, device: torch.device) -> None:
        if recipe.graph:
            require_gpu(device.type, "train.graph")
        self.network, self.ema, self.recipe, self.health = network, ema, recipe, health
        rate = torch.tensor(recipe.learning_rate, device=device) if recipe.graph else recipe.learning_rate
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=recipe.graph,
        )
        self.decay = torch.zeros((), dtype=torch.float64, device=device)  # of the EMA; a CUDA graph reads it
        self.recorded: tuple[torch.cuda.CUDAGraph, Batch, Tensor] | None = None

    def __call__(self, batch: Batch, rate: float, decay: float) -> Tensor:
        """Do one training step with this learning rate and EMA decay, unless `health` skips the update.

        Returns the mean loss of the batch, still on the device.
        """
        for group in self.optimizer.param_groups:
            if self.recipe.graph:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if not self.recipe.graph:
            return self._update(batch, decay)
        self.decay.fill_(decay)
        if self.recorded is None:
            self.recorded = self._record(batch)
        graph, inputs, loss = self.recorded
        for target, tensor in zip(inputs.tensors, batch.tensors, strict=True):
            target.copy_(tensor)
        graph.replay()
        return loss.clone()

    def _update(self, batch: Batch, decay: float | Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of(self.network, batch, self.recipe)
        self.health.backward(loss)
        self.health.update(self.network, self.optimizer, loss.detach(), clip=self.recipe.gradient_clip)
        update_ema(self.ema, self.network, decay)
        return loss.detach()

    def _record(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, Tensor]:
        """Capture a step as a CUDA graph. The capture does some warm-up steps, which are undone."""
        inputs = Batch(*(tensor.clone() for tensor in batch.tensors))
        fresh = not self.optimizer.state
        saved = [tensor.clone() for tensor in self._changed_tensors()]
        random = torch.cuda.get_rng_state()
        graph, loss = record_graph(lambda: self._update(inputs, self.decay), "train.graph")
        if fresh:
            for state in self.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
        for tensor, before in zip(self._changed_tensors(), saved, strict=not fresh):
            tensor.copy_(before)
        torch.cuda.set_rng_state(random)
        return graph, inputs, loss

    @torch.no_grad()
    def _changed_tensors(self) -> Iterator[Tensor]:
        """Every tensor that a step changes. The optimizer's tensors come last, because there are none before its first
        step."""
        for network in (self.network, self.ema):
            yield from (parameter.detach() for parameter in network.parameters())
        yield from self.health.tensors()
        for state in self.optimizer.state.values():
            yield from state.values()


def draw_batch(
    images: Images,
    recipe: Train,
    seed: int,
    step: int,
    device: torch.device,
    condition: NetworkCondition | None = None,
    texts: TextLookup | None = None,
    loaded: StepImages | None = None,
) -> Batch:
    """The batch of a step: images, noise, times, flips, crops and labels.

    Also seeds the default generators, which drop-path uses. If an image has several texts, one is drawn. `texts` maps
    the text numbers to features. `loaded`: the images of the step, if a `Feed` has loaded them already.
    """
    loaded = loaded or BatchPlan.of(images, recipe, seed, labelled=condition is not None).take(step)
    drawn = isinstance(images, LatentPosteriors)
    if isinstance(images, LatentPosteriors):
        x1 = images.drawn(loaded.pixels, seed=step_seed(seed, step, 5), device=device)
    else:
        x1 = to_floats(loaded.pixels, device)
    torch.manual_seed(step_seed(seed, step, 4))  # for drop-path, independent of the draws below
    draw = torch.Generator(device).manual_seed(step_seed(seed, step, 2))
    start, end = objective_of(recipe).interval
    t = start + (end - start) * torch.rand(len(x1), generator=draw, device=device)
    x0 = torch.randn(x1.shape, generator=draw, device=device)
    if recipe.flip and not drawn:
        flipped = torch.rand(len(x1), *[1] * (x1.ndim - 1), generator=draw, device=device) < 0.5
        x1 = torch.where(flipped, x1.flip(-1), x1)
    if condition is None:
        return Batch(x1, x0, t)
    assert loaded.labels is not None, "the images of a conditional network have labels"
    y = loaded.labels.to(device, non_blocking=True)
    dropped = torch.rand(len(y), generator=draw, device=device) < condition.drop_rate(recipe)
    y = torch.where(dropped, condition.size if texts is None else texts.null, y)
    return Batch(x1, x0, t, *((y,) if texts is None else texts(y)))


def loss_of(network: nn.Module, batch: Batch, recipe: Train) -> Tensor:
    """The mean loss of a batch."""
    with autocast(recipe, batch.x1.device):
        denoiser = with_condition(network, batch.condition)
        return prediction_loss(denoiser, batch.x1, batch.x0, batch.t, objective_of(recipe)).mean()


def to_floats(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 [B, C, H, W] -> float32 in [-1, 1]; float32 latents stay as they are.

    The copy from pinned memory is asynchronous.
    """
    moved = pixels.to(device, non_blocking=True)
    return moved if moved.dtype == torch.float32 else moved.float().div_(127.5).sub_(1)


def autocast(recipe: Train, device: torch.device) -> torch.autocast:
    """Autocast to the precision of the recipe; `auto` is bf16 on a GPU and float32 elsewhere."""
    precision = precision_on(device.type, recipe.precision)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
