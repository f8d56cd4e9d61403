"""What is timed: one call of each stage, on a network as sampling or as training has it.

`latency`, `forward` and `sample` run as sampling does: no gradients, compiled where `sample.compile` says so, launches
recorded where `sample.graph` does.
`forward-backward` and `train-step` run as training does: compiled where `train.compile` says so, recorded where
`train.graph` does. They come in the order of STAGES, for on a CPU a peak is counted from the start of the process.
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
from zigma_bench.diffusion.draw import draw
from zigma_bench.diffusion.guidance import under_labels
from zigma_bench.diffusion.noise import StepNoise
from zigma_bench.layers.speed import Graphed, compile_network, record, uncompile
from zigma_bench.plan import Cell
from zigma_bench.suite import Train
from zigma_bench.system.device import Device
from zigma_bench.training.health import Health
from zigma_bench.training.step import Descent, autocast, draw_batch, loss_of

STAGES = ("latency", "forward", "sample", "forward-backward", "train-step")  # the hungriest last


@dataclass(frozen=True)
class Stage:
    """A call of `batch` images. `passes`: forward passes that it costs, a backward counting two.

    `facts`: what else two figures of one column must share.
    """

    call: Callable[[], object]
    batch: int
    passes: int
    facts: dict[str, Any]


def make_stage(name: str, cell: Cell, network: nn.Module, device: Device) -> Stage:
    """The stage of a name, on a network that lies on the device."""
    train, graph = cell.train, {"graph": cell.train.graph, "compile": cell.train.compile}
    drawn = {"graph": cell.sample.graph, **({"compile": True} if cell.sample.compile else {})}
    if name == "latency":
        return Stage(forward_call(cell, network, device, 1), 1, 1, drawn)
    if name == "forward":
        call = forward_call(cell, network, device, train.batch)
        return Stage(call, train.batch, 1, drawn)
    if name == "sample":
        assert cell.efficiency is not None and cell.sampler.evaluations is not None
        settings = {"solver": cell.sampler.solver, "evaluations": cell.sampler.evaluations}
        settings |= {**drawn, **cell.sampler.facts()}
        passes = cell.sampler.evaluations * (1 if cell.sample.guidance is None else 2)  # with and without the label
        return Stage(sampling_call(cell, network, device), cell.efficiency.sample_batch, passes, settings)
    if name == "forward-backward":
        return Stage(backward_call(cell, network, device), train.batch, 3, graph)
    assert name == "train-step", name
    return Stage(training_call(cell, network, device), train.batch, 3, graph)


def evaluation(cell: Cell, network: nn.Module, device: Device) -> Callable[..., Tensor]:
    """(x, t), and y where there is a condition, to what the network says, as sampling calls it."""
    network.eval()
    _compiled(network, device, "sample.compile" if cell.sample.compile else None)
    target = torch.device(device.name)

    def said(x: Tensor, t: Tensor, *y: Tensor) -> Tensor:
        with torch.no_grad(), autocast(cell.train, target):
            return network(x, t, *y).float()  # type: ignore[no-any-return]

    return Graphed(said, device.type) if cell.sample.graph else said


def forward_call(cell: Cell, network: nn.Module, device: Device, batch: int) -> Callable[[], Tensor]:
    """One forward pass without gradients."""
    evaluate, x = evaluation(cell, network, device), _noise(cell, batch, device)
    if cell.condition is not None:
        evaluate = under_labels(evaluate, _labels(batch, device), cell.condition.size, None, _texts(cell, device))
    t = torch.full((batch,), 0.5, device=device.name)
    return lambda: evaluate(x, t)


def sampling_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """One whole sampling of a batch, from noise to images, guided where the suite guides."""
    assert cell.efficiency is not None
    evaluate, noise = evaluation(cell, network, device), _noise(cell, cell.efficiency.sample_batch, device)
    if cell.condition is not None:
        y, dropped, texts = _labels(len(noise), device), cell.condition.size, _texts(cell, device)
        evaluate = under_labels(evaluate, y, dropped, cell.sample.guidance, texts)

    def call() -> None:
        stirred = StepNoise(cell.seed, range(len(noise)), noise.shape[1:], device.name)
        draw(evaluate, noise, objective=cell.objective, sampler=cell.sampler, step_noise=stirred)

    return call


def backward_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """The loss of one batch and its gradients; the images, noise and times stay the same."""
    target = torch.device(device.name)
    batch = draw_batch(_images(cell), _recipe(cell), cell.seed, 0, target, cell.condition, _texts(cell, device))
    _ready_to_train(cell, network, device)

    def call() -> None:
        network.zero_grad(set_to_none=True)
        loss_of(network, batch, cell.train).backward()  # type: ignore[no-untyped-call]

    if not cell.train.graph:
        return call
    graph, _ = record(call, "train.graph")
    return graph.replay


def training_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """One whole training step, EMA included, on images that lie in memory."""
    target, images = torch.device(device.name), _images(cell)
    network.zero_grad(set_to_none=True)
    ema = copy.deepcopy(network).requires_grad_(False)
    _ready_to_train(cell, network, device)
    health = Health(target, scaled=cell.train.precision == "fp16")
    descent, texts, recipe = Descent(network, ema, cell.train, health, target), _texts(cell, device), _recipe(cell)

    def call() -> None:
        batch = draw_batch(images, recipe, cell.seed, 0, target, cell.condition, texts)
        descent(batch, cell.train.learning_rate, cell.train.ema)

    return call


def _recipe(cell: Cell) -> Train:
    """The cell's, for images that lie in memory: cutting them out of larger ones is work of processes beside it."""
    return cell.train.model_copy(update={"random_crop": None})


def _ready_to_train(cell: Cell, network: nn.Module, device: Device) -> None:
    network.train()
    _compiled(network, device, "train.compile" if cell.train.compile else None)


def _compiled(network: nn.Module, device: Device, key: str | None) -> None:
    """Compile the network for a key of the suite, or have it as it is, whatever a stage before this one asked for."""
    uncompile(network)
    if key is not None:
        compile_network(network, device.type, key)


def _noise(cell: Cell, batch: int, device: Device) -> Tensor:
    shape = (batch, *cell.shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device.name)


def _labels(batch: int, device: Device) -> Tensor:
    """The first class, or text, for all."""
    return torch.zeros(batch, dtype=torch.int64, device=device.name)


@dataclass(frozen=True)
class NoiseTexts:
    """Two texts of noise, of which the second stands for the empty one: features [2, S, C] on the device."""

    features: Tensor
    masked: bool
    null: int = 1

    def __call__(self, numbers: Tensor) -> tuple[Tensor, ...]:
        features = self.features[numbers]
        return (features, torch.ones_like(features[..., 0], dtype=torch.bool)) if self.masked else (features,)


def _texts(cell: Cell, device: Device) -> NoiseTexts | None:
    """What stands for the texts of a cell that has them."""
    given = cell.condition
    if given is None or given.kind != "text":
        return None
    draw = torch.Generator().manual_seed(0)
    return NoiseTexts(torch.randn(2, given.tokens, given.size, generator=draw).to(device.name), given.masked)


def _images(cell: Cell) -> ArrayImages:
    """Noise, all of the first class or text."""
    shape = (cell.train.batch, *cell.shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return ArrayImages(images, np.zeros(cell.train.batch, np.int64))
