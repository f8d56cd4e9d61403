"""Launches of conv.cu, which reads and writes rows through the path on an NVIDIA card."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from zigma_bench.ops.cuda.program import Kernel, Layout, kernel, readable_by

SOURCE = Path(__file__).with_name("conv.cu")
RUN, BATCH = 32, 6  # steps of a thread, and how many it reads ahead; measured on an H100
BATCH_BACKWARD = 8
VECTOR = 4  # channels of a thread
CONV = Layout(4, 5, 4)  # `Conv` of conv.cu


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    path: Tensor | None,
    since: Tensor | None,
    silu: bool,
    *,
    y: Tensor | None = None,
) -> Tensor:
    """y [K, B, L, E] in x's dtype; weight [K, E, W] and bias [K, E] float32, path and since [K, L], contiguous.

    `y` may be given to be written.
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format) if y is None else y
    _launch("conv", RUN, BATCH, (x, y, None, None), weight, bias, path, since, silu, None)
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    path: Tensor | None,
    since: Tensor | None,
    silu: bool,
    *,
    grad_x: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (into `grad_x` if given), weight and bias (float32)."""
    if grad_x is None:
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    paths, batch, length, channels = x.shape
    run = run_backward(x.numel())
    shape = (weight.shape[2] + 1, paths, batch, -(-length // run), channels)
    grads = torch.empty(shape, dtype=torch.float32, device=x.device)
    _launch("conv_backward", run, BATCH_BACKWARD, (x, None, grad_y, grad_x), weight, bias, path, since, silu, grads)
    summed = grads.sum((2, 3))  # [W + 1, K, E]
    return grad_x, summed[:-1].permute(1, 2, 0).contiguous(), summed[-1]


def run_backward(numbers: int) -> int:
    """Steps of a thread: many, so that few are read twice, where there are threads enough."""
    return 128 if numbers >= 2**24 else 32


def _launch(
    name: str,
    run: int,
    ahead: int,
    rows: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    weight: Tensor,
    bias: Tensor,
    path: Tensor | None,
    since: Tensor | None,
    silu: bool,
    grads: Tensor | None,
) -> None:
    x = rows[0]
    paths, batch, length, channels = x.shape
    groups, runs = -(-channels // VECTOR), -(-length // run)
    across = min(128, 1 << (groups - 1).bit_length())
    along = 128 // across
    vector = readable_by(VECTOR * x.element_size(), *rows)
    built = _kernel(x.get_device(), name, x.dtype, weight.shape[2], run, ahead, across, vector, silu, since is not None)
    call = CONV.pack(rows, (weight, bias, path, since, grads), (batch, length, channels, runs))
    built.launch((-(-groups // across), -(-runs // along), paths * batch), (across, along, 1), call)


@functools.cache
def _kernel(
    index: int, name: str, dtype: torch.dtype, width: int, run: int, ahead: int, across: int, vector: bool, silu: bool,
    since: bool,
) -> Kernel:  # fmt: skip
    return kernel(
        SOURCE, name, index, IO=dtype, WIDTH=width, RUN=run, BATCH=ahead, X=across, Y=128 // across, VECTOR=vector,
        SILU=silu, SEGMENTS=since,
    )  # fmt: skip
