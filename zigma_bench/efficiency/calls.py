"""The calls that an efficiency measurement times, with the network configured as for sampling or for training.

`latency`, `forward` and `sample` run without gradients, compiled if `sample.compile` is set, as a CUDA graph if
`sample.graph` is set. `forward-backward` and `train-step` follow `train.compile` and `train.graph` in the same way.
The calls run in the order of CALL_NAMES, because on a CPU the peak memory counts from the start of the process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zigma_bench.data.images import ArrayImages
from zigma_bench.diffusion.draw import sample_from_noise
from zigma_bench.diffusion.guidance import with_labels
from zigma_bench.diffusion.noise import StepNoise
from zigma_bench.layers.speed import Graphed, compile_network, record_graph, uncompile_network
from zigma_bench.plan import Cell
from zigma_bench.suite import Train
from zigma_bench.system.device import Device
from zigma_bench.training.health import Health
from zigma_bench.training.step import TrainStep, autocast, draw_batch, loss_of

CALL_NAMES = ("latency", "forward", "sample", "forward-backward", "train-step")  # by memory, the largest last


@dataclass(frozen=True)
class TimedCall:
    """A call to time, for `batch` images. `passes`: its cost in forward passes; a backward pass counts as two.

    `facts`: other settings in which two comparable values must agree.
    """

    call: Callable[[], object]
    batch: int
    passes: int
    facts: dict[str, Any]


def make_timed_call(name: str, cell: Cell, network: nn.Module, device: Device) -> TimedCall:
    """Make the timed call of this name. The network must be on the device."""
    train, training = cell.train, {"graph": cell.train.graph, "compile": cell.train.compile}
    sampling = {"graph": cell.sample.graph, **({"compile": True} if cell.sample.compile else {})}
    if name == "latency":
        return TimedCall(forward_call(cell, network, device, 1), 1, 1, sampling)
    if name == "forward":
        call = forward_call(cell, network, device, train.batch)
        return TimedCall(call, train.batch, 1, sampling)
    if name == "sample":
        assert cell.efficiency is not None and cell.sampler.evaluations is not None
        settings = {"solver": cell.sampler.solver, "evaluations": cell.sampler.evaluations}
        settings |= {**sampling, **cell.sampler.facts()}
        passes = cell.sampler.evaluations * (1 if cell.sample.guidance is None else 2)  # guidance doubles the batch
        return TimedCall(sampling_call(cell, network, device), cell.efficiency.sample_batch, passes, settings)
    if name == "forward-backward":
        return TimedCall(backward_call(cell, network, device), train.batch, 3, training)
    assert name == "train-step", name
    return TimedCall(training_call(cell, network, device), train.batch, 3, training)


def evaluation_call(cell: Cell, network: nn.Module, device: Device) -> Callable[..., Tensor]:
    """The denoiser `(x, t, *condition)` -> prediction, configured as for sampling."""
    network.eval()
    _compile_or_undo(network, device, "sample.compile" if cell.sample.compile else None)
    target = torch.device(device.name)

    def denoiser(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        with torch.no_grad(), autocast(cell.train, target):
            return network(x, t, *condition).float()  # type: ignore[no-any-return]

    return Graphed(denoiser, device.type) if cell.sample.graph else denoiser


def forward_call(cell: Cell, network: nn.Module, device: Device, batch: int) -> Callable[[], Tensor]:
    """One forward pass without gradients."""
    denoiser, x = evaluation_call(cell, network, device), _noise(cell, batch, device)
    if cell.condition is not None:
        denoiser = with_labels(denoiser, _labels(batch, device), cell.condition.size, None, _texts(cell, device))
    t = torch.full((batch,), 0.5, device=device.name)
    return lambda: denoiser(x, t)


def sampling_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """The complete sampling of a batch from noise to images, with guidance if the suite uses it."""
    assert cell.efficiency is not None
    denoiser, noise = evaluation_call(cell, network, device), _noise(cell, cell.efficiency.sample_batch, device)
    if cell.condition is not None:
        y, dropped, texts = _labels(len(noise), device), cell.condition.size, _texts(cell, device)
        denoiser = with_labels(denoiser, y, dropped, cell.sample.guidance, texts)

    def call() -> None:
        step_noise = StepNoise(cell.seed, range(len(noise)), noise.shape[1:], device.name)
        sample_from_noise(denoiser, noise, objective=cell.objective, sampler=cell.sampler, step_noise=step_noise)

    return call


def backward_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """The loss of one batch and its gradients. Every call uses the same images, noise and times."""
    target = torch.device(device.name)
    batch = draw_batch(_images(cell), _recipe(cell), cell.seed, 0, target, cell.condition, _texts(cell, device))
    _prepare_training(cell, network, device)

    def call() -> None:
        network.zero_grad(set_to_none=True)
        loss_of(network, batch, cell.train).backward()  # type: ignore[no-untyped-call]

    if not cell.train.graph:
        return call
    graph, _ = record_graph(call, "train.graph")
    return graph.replay


def training_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """One complete training step, including the EMA, on images in memory."""
    target, images = torch.device(device.name), _images(cell)
    network.zero_grad(set_to_none=True)
    ema = copy.deepcopy(network).requires_grad_(False)
    _prepare_training(cell, network, device)
    health = Health(target, scaled=cell.train.precision == "fp16")
    train_step, texts, recipe = TrainStep(network, ema, cell.train, health, target), _texts(cell, device), _recipe(cell)

    def call() -> None:
        batch = draw_batch(images, recipe, cell.seed, 0, target, cell.condition, texts)
        train_step(batch, cell.train.learning_rate, cell.train.ema)

    return call


def _recipe(cell: Cell) -> Train:
    """The cell's recipe without random crops, which worker processes would do."""
    return cell.train.model_copy(update={"random_crop": None})


def _prepare_training(cell: Cell, network: nn.Module, device: Device) -> None:
    network.train()
    _compile_or_undo(network, device, "train.compile" if cell.train.compile else None)


def _compile_or_undo(network: nn.Module, device: Device, key: str | None) -> None:
    """Compile the network if a suite key requests it, else undo the compilation for an earlier call."""
    uncompile_network(network)
    if key is not None:
        compile_network(network, device.type, key)


def _noise(cell: Cell, batch: int, device: Device) -> Tensor:
    shape = (batch, *cell.shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device.name)


def _labels(batch: int, device: Device) -> Tensor:
    """The first class or text for all images."""
    return torch.zeros(batch, dtype=torch.int64, device=device.name)


@dataclass(frozen=True)
class NoiseTexts:
    """The random features of two texts, [2, S, C] on the device. The second replaces the empty text."""

    features: Tensor
    masked: bool
    null: int = 1

    def __call__(self, numbers: Tensor) -> tuple[Tensor, ...]:
        features = self.features[numbers]
        return (features, torch.ones_like(features[..., 0], dtype=torch.bool)) if self.masked else (features,)


def _texts(cell: Cell, device: Device) -> NoiseTexts | None:
    """Random texts for a cell with text conditioning; None for other cells."""
    condition = cell.condition
    if condition is None or condition.kind != "text":
        return None
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, condition.tokens, condition.size, generator=generator)
    return NoiseTexts(features.to(device.name), condition.masked)


def _images(cell: Cell) -> ArrayImages:
    """Random images, all of the first class or text."""
    shape = (cell.train.batch, *cell.shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return ArrayImages(images, np.zeros(cell.train.batch, np.int64))
