"""Official checkpoints: networks of ZigMa, DiT and SiT built from the official constructors' arguments and weights.

`load("zigma", state_dict, config)` gives a network with the official `forward(x, t, y=None)`. A file is read with
`torch.load(path, map_location="cpu", weights_only=True)`. `import_checkpoint` keeps one as a folder, `open_model` gives
that folder's network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from zigma_bench.backbones.official.folder import import_checkpoint, network_of, open_model
from zigma_bench.backbones.official.state import fill, tensors_of
from zigma_bench.ops.backends import resolve


def load(
    name: str,
    state_dict: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    weights: Literal["ema", "model"] = "ema",
    backend: str = "auto",
    device: str = "cpu",
) -> nn.Module:
    """The official network `name` (zigma, dit or sit) with the weights of a state dict, in float32, ready to evaluate.

    `config`: the official constructor's arguments by its names. `state_dict`: the weights by the official names, or a
    training checkpoint `{"model": ..., "ema": ..., ...}`, of which `weights` takes one; with or without `module.`
    before every name. `backend`: of the scan and the convolution; `device`: where the network runs.

    `forward(x, t, y=None)`: x [B, C, H, W], or [B, T, C, H, W] for a clip. ZigMa and SiT take t in [0, 1] (t = 1 is
    data) and give the velocity; DiT takes steps 0 to 999 and gives noise, with a learned sigma [B, 2 C, H, W].
    y: labels int64 [B], or text features [B, S, C]. In training no label is dropped.

    Raises UnknownName for a name, UsageError for arguments that the constructor has not and for a state dict whose
    names or shapes differ (all of them are listed), NotReady for what the official code does not run.
    """
    loading = network_of(name)(config, backend=resolve(backend, torch.device(device).type))
    fill(loading.layout, tensors_of(state_dict, weights), where=f"state dict of {name}")
    loading.finish()
    return loading.network.to(device).eval()


__all__ = ["import_checkpoint", "load", "open_model"]
