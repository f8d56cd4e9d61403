"""The card on which Triton kernels run, and the strides that a kernel takes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def find_card(device: torch.device) -> tuple[int, int]:
    """Processors of a card and lanes of a warp; on a CPU, which interprets kernels, programs run one after another."""
    if device.type == "cpu":
        return 1, 32
    found = torch.cuda.get_device_properties(device)
    return int(found.multi_processor_count), int(found.warp_size)


def use_card(device: torch.device) -> AbstractContextManager[Any]:
    """Make the card of the tensors the current one, on which Triton launches."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


def strides(*rows: Tensor | None) -> tuple[int, ...]:
    """The strides of samples and rows, in numbers; the numbers of a row must be adjacent."""
    return tuple(step for tensor in rows for step in ((0, 0) if tensor is None else tensor.stride()[:2]))
