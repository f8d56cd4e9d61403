"""What the launches of Triton kernels share: the card that they run on, and rows as a kernel is told of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def card(device: torch.device) -> tuple[int, int]:
    """Processors of a card and lanes of a warp; on a CPU, which interprets the kernels, programs come one by one."""
    if device.type == "cpu":
        return 1, 32
    found = torch.cuda.get_device_properties(device)
    return int(found.multi_processor_count), int(found.warp_size)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current card: makes it that of the tensors."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


def strides(*rows: Tensor | None) -> tuple[int, ...]:
    """Of samples and rows, in numbers; the numbers of a row lie side by side."""
    return tuple(step for tensor in rows for step in ((0, 0) if tensor is None else tensor.stride()[:2]))
