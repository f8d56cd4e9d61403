"""Load the network of a cell for sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zigma_bench.backbones.build import build_network
from zigma_bench.diffusion.convert import Network, linear_velocity_of
from zigma_bench.diffusion.guidance import TextLookup, with_text_features
from zigma_bench.layers.speed import Graphed, compile_network
from zigma_bench.plan import Cell
from zigma_bench.records.store import EMA
from zigma_bench.run.stages.context import StageContext
from zigma_bench.training.checkpoint import load_weights
from zigma_bench.training.step import autocast


def load_denoiser(context: StageContext) -> Callable[..., Tensor]:
    """Return `denoiser(x, t, *condition)` with the EMA weights of a trained cell, or the initial weights of a ceiling.

    Its output is the `prediction` of the recipe, in float32.
    """
    cell, device = context.cell, torch.device(context.device.name)
    network = build_network(cell, context.device.type)
    if cell.role == "cell":
        trained = context.record("train")
        assert trained is not None, "a stage follows training"
        load_weights(context.stage_folder("train") / EMA, network, sha256=trained.files[EMA])
    network.to(device).eval().requires_grad_(False)
    if cell.sample.compile:
        compile_network(network, device.type, "sample.compile")
    denoiser = denoiser_of(network, cell, device)
    return Graphed(denoiser, device.type) if cell.sample.graph else denoiser


def denoiser_of(network: nn.Module, cell: Cell, device: torch.device) -> Callable[..., Tensor]:
    """`denoiser(x, t, *condition)`: a network in the precision of the recipe, with output in float32."""

    def denoiser(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        with autocast(cell.train, device):
            return network(x, t, *condition).float()  # type: ignore[no-any-return]

    return denoiser


def velocity_of(denoiser: Callable[..., Tensor], cell: Cell, texts: TextLookup | None) -> Network:
    """The velocity on the linear path that a denoiser predicts. With `texts`, its condition is text numbers."""
    bound = denoiser if texts is None else with_text_features(denoiser, texts)
    return linear_velocity_of(bound, cell.objective.path, cell.objective.prediction)
