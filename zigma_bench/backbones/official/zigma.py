"""Build ZigMa from the arguments of the official constructor and map its parameter names.

Source: CompVis/zigma (model_zigma.py) at 37d837b.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from zigma_bench.backbones.official.scans import OfficialScan, ReversedInTime, official_scan
from zigma_bench.backbones.official.state import (
    Loading,
    Weight,
    keep_positions,
    map_linear,
    map_weight,
    parse_arguments,
)
from zigma_bench.backbones.zigma.network import Zigma, ZigmaBlock, ZigmaTextBlock
from zigma_bench.errors import NotReady
from zigma_bench.layers.conditioning import LabelEmbedding, TextEmbedding
from zigma_bench.layers.options import Positive, Rate
from zigma_bench.mixers.mamba.mixer import MambaBranch
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid

SSM = {"d_state": "state", "d_conv": "conv", "expand": "expand"}
POSITIONS = {0: "none", 1: "sincos", 2: "learned", 3: "none"}  # 3: a table of zeros, neither trained nor saved


@dataclass(frozen=True)
class ZigmaConfig:
    """The arguments of the official constructor.

    The output of a loaded network doesn't depend on `device`, `use_jit`, `fused_add_norm` and `n_context_token`, on
    `m_init` and `initializer_cfg`, which affect the initialization, or, in float32, on `residual_in_fp32`.
    """

    in_channels: Positive
    embed_dim: Positive
    depth: Positive
    img_dim: Positive
    patch_size: Positive = 1
    has_text: bool = False
    num_classes: int = -1
    drop_path_rate: Rate = 0.1
    n_context_token: int = 0
    d_context: int = 0
    ssm_cfg: dict[str, Any] | None = None
    norm_epsilon: float = 1e-5
    rms_norm: bool = True
    fused_add_norm: bool = True
    residual_in_fp32: bool = True
    initializer_cfg: dict[str, Any] | None = None
    scan_type: str = "v2"
    video_frames: int = 0
    tpe: bool = False
    device: Any = "cuda"
    use_pe: Literal[0, 1, 2, 3] = 0
    use_jit: bool = True
    m_init: bool = True
    use_checkpoint: bool = False
    dtype: Any = field(default=torch.float32)


def build_official_zigma(config: Mapping[str, Any], *, backend: str) -> Loading:
    """Build the network of the official constructor."""
    chosen: ZigmaConfig = parse_arguments("zigma", ZigmaConfig, config)
    _refuse_other_networks(chosen)
    grid = Grid.of_image(chosen.img_dim, chosen.img_dim, chosen.patch_size)
    grid = Grid(grid.height, grid.width, max(chosen.video_frames, 1))
    scan = official_scan(chosen.scan_type, grid=grid, depth=chosen.depth)
    spec = catalogue().get("backbone", "vision-mamba" if scan.bidirectional else "zigma")
    options = spec.make_options(spec.resolve(_translate_arguments(chosen), where="config of zigma"))
    spec.facts.check(options, grid=grid, routes=scan.routes)
    network: Zigma = spec.load()(options, grid=grid, channels=chosen.in_channels, routes=scan.routes, backend=backend)
    return Loading(network, list(zigma_layout(network)), lambda: _finish(network, scan), chosen, spec, options)


def _finish(network: Zigma, scan: OfficialScan) -> None:
    keep_positions(network.positions, network.grid)
    for number in scan.reversed_layers:
        block = network.blocks[number]
        assert isinstance(block, ZigmaBlock)
        block.mixer = ReversedInTime(block.mixer, network.grid.frames)


def _translate_arguments(config: ZigmaConfig) -> dict[str, Any]:
    """Translate the official arguments to our options."""
    found: dict[str, Any] = {
        "width": config.embed_dim,
        "depth": config.depth,
        "patch": config.patch_size,
        "positions": POSITIONS[config.use_pe],
        "drop_path": config.drop_path_rate,
        "residual": "official",
        "gradient_checkpointing": config.use_checkpoint,
    }
    if config.has_text:
        found |= {"condition": "text", "text_width": config.d_context}
    elif config.num_classes > 0:
        found |= {"condition": "class", "classes": config.num_classes}
    return found | {SSM[name]: value for name, value in (config.ssm_cfg or {}).items()}


def _refuse_other_networks(config: ZigmaConfig) -> None:
    """NotReady for arguments that no official config or checkpoint uses."""
    unlike = {
        name: value
        for name, value, only in (
            ("rms_norm", config.rms_norm, True),
            ("norm_epsilon", config.norm_epsilon, 1e-5),
            ("tpe", config.tpe, False),
            ("dtype", config.dtype, torch.float32),
        )
        if value != only
    }
    unlike |= {f"ssm_cfg.{name}": value for name, value in (config.ssm_cfg or {}).items() if name not in SSM}
    if config.video_frames < 0 or config.video_frames == 1:
        unlike["video_frames"] = config.video_frames
    if config.has_text and config.d_context < 1:
        unlike["d_context"] = config.d_context
    if unlike:
        raise NotReady(
            "a network with these arguments isn't supported",
            where="config of zigma",
            expected="RMSNorm with epsilon 1e-5 in float32, no tpe, only d_state, d_conv and expand in ssm_cfg, "
            "video_frames 0 (an image) or at least 2, and a d_context if has_text",
            got=unlike,
        )


def zigma_layout(network: Zigma) -> Iterator[Weight]:
    """All official tensors, in the order of the official modules."""
    D, patch = network.head.in_features, network.patch
    if network.positions.kind != "none":
        yield map_weight("pos_embed", network.positions.table)
    yield map_weight("x_embedder.proj.weight", network.patch_embed.weight, shape=(D, network.channels, patch, patch))
    yield map_weight("x_embedder.proj.bias", network.patch_embed.bias)
    yield from map_linear("t_embedder.mlp.0", network.time_embed.hidden)
    yield from map_linear("t_embedder.mlp.2", network.time_embed.out)
    if isinstance(network.condition, LabelEmbedding):
        yield map_weight("y_embedder.embedding_table.weight", network.condition.table)
    if isinstance(network.condition, TextEmbedding):
        yield from map_linear("y_embedder", network.condition.proj)
    for number, block in enumerate(network.blocks):
        yield from _map_block(f"blocks.{number}", block)
    yield from map_linear("final_layer.linear", network.head)
    yield map_weight("norm_f.weight", network.final_norm.weight)


def _map_block(name: str, block: Any) -> Iterator[Weight]:
    yield map_weight(f"{name}.norm.weight", block.norm.weight)
    yield from map_linear(f"{name}.mixer.in_proj", block.mixer.in_proj)
    yield from map_linear(f"{name}.mixer.out_proj", block.mixer.out_proj)
    for suffix, branch in zip(("", "_b"), block.mixer.branches, strict=False):
        yield from _map_branch(f"{name}.mixer", suffix, branch)
    if not isinstance(block, ZigmaTextBlock):
        yield from map_linear(f"{name}.adaLN_modulation.1", block.modulation)
        return
    yield from map_linear(f"{name}.adaLN_modulation.1", block.modulation, block.text_modulation)  # [6 D, D]
    for part in "qkv":
        yield from map_linear(f"{name}.msa.to_{part}", getattr(block.text_attention, part))
    yield from map_linear(f"{name}.msa.to_out.0", block.text_attention.out)


def _map_branch(name: str, suffix: str, branch: MambaBranch) -> Iterator[Weight]:
    """The parameters of one direction. The names of the backward direction contain `_b`."""
    yield map_weight(f"{name}.A{suffix}_log", branch.A_log)
    yield map_weight(f"{name}.D{suffix}", branch.D)
    assert branch.conv_weight is not None and branch.conv_bias is not None  # the official mixer has no other options
    channels, window = branch.conv_weight.shape
    yield map_weight(f"{name}.conv1d{suffix}.weight", branch.conv_weight, shape=(channels, 1, window))
    yield map_weight(f"{name}.conv1d{suffix}.bias", branch.conv_bias)
    yield from map_linear(f"{name}.x_proj{suffix}", branch.x_proj)
    yield map_weight(f"{name}.dt_proj{suffix}.weight", branch.dt_weight)
    yield map_weight(f"{name}.dt_proj{suffix}.bias", branch.dt_bias)
