"""Official checkpoints: build ZigMa, DiT and SiT from the arguments of the official constructors and their weights.

`load("zigma", state_dict, config)` returns a network with the official `forward(x, t, y=None)`. Read a file with
`torch.load(path, map_location="cpu", weights_only=True)`. `import_checkpoint` converts a file to a model folder, and
`open_model` loads the network of such a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from zigma_bench.backbones.official.folder import import_checkpoint, network_of, open_model
from zigma_bench.backbones.official.state import fill_weights, tensors_of
from zigma_bench.ops.backends import resolve


def load_official(
    name: str,
    state_dict: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    weights: Literal["ema", "model"] = "ema",
    backend: str = "auto",
    device: str = "cpu",
) -> nn.Module:
    """Load the official network `name` (zigma, dit or sit) with the weights of a state dict, float32, in eval mode.

    `config`: the arguments of the official constructor. `state_dict`: the weights by official name, or a training
    checkpoint `{"model": ..., "ema": ..., ...}`, from which `weights` selects; names may start with `module.`.
    `backend`: backend of the scan and the convolution. `device`: device of the network.

    `forward(x, t, y=None)`: x [B, C, H, W], or [B, T, C, H, W] for a clip. ZigMa and SiT take t in [0, 1] (t = 1 is
    data) and predict the velocity. DiT takes steps 0 to 999 and predicts the noise; with a learned sigma its output is
    [B, 2 C, H, W]. y: labels int64 [B], or text features [B, S, C]. The network never drops labels itself.

    Raises UnknownName for an unknown `name`, UsageError for unknown constructor arguments and for a state dict with
    different names or shapes (all are listed), NotReady for configurations that the official code can't run.
    """
    loading = network_of(name)(config, backend=resolve(backend, torch.device(device).type))
    fill_weights(loading.layout, tensors_of(state_dict, weights), where=f"state dict of {name}")
    loading.finish()
    return loading.network.to(device).eval()


__all__ = ["import_checkpoint", "load_official", "open_model"]
