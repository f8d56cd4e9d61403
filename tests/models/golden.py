"""Weights and inputs of the official ZigMa's golden forward passes, mapped to our names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

DIRECT = {
    "pos_embed": "positions.table",
    "x_embedder.proj.weight": "patch_embed.weight",
    "x_embedder.proj.bias": "patch_embed.bias",
    "t_embedder.mlp.0.weight": "time_embed.hidden.weight",
    "t_embedder.mlp.0.bias": "time_embed.hidden.bias",
    "t_embedder.mlp.2.weight": "time_embed.out.weight",
    "t_embedder.mlp.2.bias": "time_embed.out.bias",
    "norm_f.weight": "final_norm.weight",
    "final_layer.linear.weight": "head.weight",
    "final_layer.linear.bias": "head.bias",
}
MIXER = {
    "A_log": "A_log", "D": "D", "conv1d.weight": "conv_weight", "conv1d.bias": "conv_bias",
    "x_proj.weight": "x_proj.weight", "dt_proj.weight": "dt_weight", "dt_proj.bias": "dt_bias",
}  # fmt: skip


def our_name(name: str) -> str:
    """The name of an official parameter in our networks."""
    if name in DIRECT:
        return DIRECT[name]
    layer, rest = re.fullmatch(r"blocks\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
    if rest.startswith("adaLN_modulation.1."):
        return f"blocks.{layer}.modulation.{rest.rpartition('.')[2]}"
    if not rest.startswith("mixer."):
        return f"blocks.{layer}.{rest}"
    part = rest.removeprefix("mixer.")
    if part in ("in_proj.weight", "out_proj.weight"):
        return f"blocks.{layer}.{rest}"
    plain = re.sub(r"_b(?=\.|_log$|$)", "", part)
    return f"blocks.{layer}.mixer.branches.{int(plain != part)}.{MIXER[plain]}"


def official_weights(param_order: list[list[Any]], state: int = 16) -> dict[str, torch.Tensor]:
    """The closed-form weights under our names: 0.25 sin(0.7 (i+1) + 0.37 j + 0.0113 j^2), with the special cases."""
    weights = {}
    for i, (name, shape) in enumerate(param_order):
        j = np.arange(np.prod(shape), dtype=np.float64)
        v = (0.25 * np.sin(0.7 * (i + 1) + 0.37 * j + 0.0113 * j * j)).reshape(shape)
        if name.endswith("norm.weight") or name == "norm_f.weight" or name.endswith((".D", ".D_b")):
            v = 1 + v
        elif name.endswith(("A_log", "A_b_log")):
            v = np.log(np.arange(1, state + 1)) + 0.1 * v
        if name == "x_embedder.proj.weight" or re.search(r"conv1d(_b)?\.weight$", name):
            v = v.reshape(shape[0], -1)
        weights[our_name(name)] = torch.from_numpy(v.astype(np.float32))
    return weights


def golden_input(shape: list[int]) -> torch.Tensor:
    j = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(0.11 * j + 0.3).reshape(shape).astype(np.float32))
