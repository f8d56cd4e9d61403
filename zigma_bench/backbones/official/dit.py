"""Build DiT and SiT from the arguments of the official constructors (the same for both) and map their parameter names.

Source: facebookresearch/DiT (models.py), willisma/SiT (models.py). DiT's forward takes steps 0 to 999 and predicts
noise and sigma; SiT's takes t in [0, 1] and predicts the velocity. Neither scales t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zigma_bench.backbones.dit.facts import DitOptions
from zigma_bench.backbones.dit.network import Dit, Sit
from zigma_bench.backbones.official.state import (
    Loading,
    Weight,
    keep_positions,
    map_linear,
    map_weight,
    parse_arguments,
)
from zigma_bench.errors import NotReady
from zigma_bench.layers.conditioning import LabelEmbedding
from zigma_bench.layers.options import Positive, Rate
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid


@dataclass(frozen=True)
class DitConfig:
    """The arguments of the official constructors. The defaults are those of XL/2 on latents of 32 x 32."""

    input_size: Positive = 32
    patch_size: Positive = 2
    in_channels: Positive = 4
    hidden_size: Positive = 1152
    depth: Positive = 28
    num_heads: Positive = 16
    mlp_ratio: float = 4.0
    class_dropout_prob: Rate = 0.1
    num_classes: Positive = 1000
    learn_sigma: bool = True


class OfficialDit(Dit):
    """x [B, C, H, W], steps t [B] from 0 to 999, labels int64 [B] -> noise [B, C, H, W], then any learned sigma."""

    time_scale = 1.0

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.with_sigma(x, t, y)


def build_dit(config: Mapping[str, Any], *, backend: str) -> Loading:
    """Build the network of DiT's official constructor."""
    return _build_network("dit", OfficialDit, config, backend)


def build_sit(config: Mapping[str, Any], *, backend: str) -> Loading:
    """Build the network of SiT's official constructor."""
    return _build_network("sit", Sit, config, backend)


def _build_network(name: str, kind: type[Dit], config: Mapping[str, Any], backend: str) -> Loading:
    chosen: DitConfig = parse_arguments(name, DitConfig, config)
    if chosen.mlp_ratio != int(chosen.mlp_ratio):
        raise NotReady("mlp_ratio must be an integer", where=f"config of {name}", got=chosen.mlp_ratio)
    spec = catalogue().get("backbone", name)
    options: DitOptions = spec.make_options(spec.resolve(_translate_arguments(chosen), where=f"config of {name}"))
    grid = Grid.of_image(chosen.input_size, chosen.input_size, chosen.patch_size)
    spec.facts.check(options, grid=grid, routes=())
    network = kind(options, grid=grid, channels=chosen.in_channels, routes=(), backend=backend)
    weights = list(dit_layout(network))
    return Loading(network, weights, lambda: keep_positions(network.positions, grid), chosen, spec, options)


def _translate_arguments(config: DitConfig) -> dict[str, Any]:
    """Translate the official arguments to our options."""
    return {
        "width": config.hidden_size,
        "depth": config.depth,
        "patch": config.patch_size,
        "heads": config.num_heads,
        "mlp_ratio": int(config.mlp_ratio),
        "condition": "class",
        "classes": config.num_classes,
        "null_class": config.class_dropout_prob > 0,
        "learn_sigma": config.learn_sigma,
    }


def dit_layout(network: Dit) -> Iterator[Weight]:
    """All official tensors, in the order of the official modules."""
    D, patch = network.head.in_features, network.patch
    yield map_weight("pos_embed", network.positions.table)
    yield map_weight("x_embedder.proj.weight", network.patch_embed.weight, shape=(D, network.channels, patch, patch))
    yield map_weight("x_embedder.proj.bias", network.patch_embed.bias)
    yield from map_linear("t_embedder.mlp.0", network.time_embed.hidden)
    yield from map_linear("t_embedder.mlp.2", network.time_embed.out)
    assert isinstance(network.condition, LabelEmbedding)
    yield map_weight("y_embedder.embedding_table.weight", network.condition.table)
    for number, block in enumerate(network.blocks):
        yield from _map_block(f"blocks.{number}", block)
    yield from map_linear("final_layer.linear", network.head)
    yield from map_linear("final_layer.adaLN_modulation.1", network.final_modulation)


def _map_block(name: str, block: Any) -> Iterator[Weight]:
    yield from map_linear(f"{name}.attn.qkv", block.attention.qkv)
    yield from map_linear(f"{name}.attn.proj", block.attention.out)
    yield from map_linear(f"{name}.mlp.fc1", block.mlp.hidden)
    yield from map_linear(f"{name}.mlp.fc2", block.mlp.out)
    yield from map_linear(f"{name}.adaLN_modulation.1", block.modulation)
