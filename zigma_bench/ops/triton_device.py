"""The GPU on which Triton kernels run, and the strides of their arguments."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def gpu_parallelism(device: torch.device) -> tuple[int, int]:
    """A GPU's multiprocessors and lanes per warp; a CPU counts as one, since interpreted programs run one by one."""
    if device.type == "cpu":
        return 1, 32
    found = torch.cuda.get_device_properties(device)
    return int(found.multi_processor_count), int(found.warp_size)


def use_gpu(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which the GPU of the tensors is current, because Triton launches on the current GPU."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


def strides(*rows: Tensor | None) -> tuple[int, ...]:
    """The strides of samples and rows, in numbers; the numbers of a row must be adjacent."""
    return tuple(step for tensor in rows for step in ((0, 0) if tensor is None else tensor.stride()[:2]))
