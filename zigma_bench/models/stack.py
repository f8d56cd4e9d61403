"""How a network runs its blocks: as they are, or with what they compute thrown away and made again backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """block(*inputs); `checkpointing` keeps its inputs alone for the backward pass, with the same random numbers."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
