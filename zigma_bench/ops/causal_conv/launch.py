"""Launches of conv.cu, which reads and writes rows through the path on an NVIDIA GPU."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zigma_bench.ops.causal_conv import CausalConvArguments
from zigma_bench.ops.cuda.program import CudaKernel, StructLayout, is_readable_by, load_kernel

SOURCE = Path(__file__).with_name("conv.cu")
RUN, BATCH = 32, 6  # steps per thread, and how many of them are read ahead; tuned on an H100
BATCH_BACKWARD = 8
VECTOR = 4  # channels per thread
CONV = StructLayout(4, 5, 4)  # `Conv` of conv.cu


@dataclass(frozen=True)
class ConvLaunchConfig:
    """A kernel of conv.cu, the steps per thread, and how many of them are read ahead."""

    kernel: str
    run: int
    ahead: int


def run_conv_kernel(a: CausalConvArguments, *, y: Tensor | None = None) -> Tensor:
    """y [K, B, L, E] in x's dtype, written to the argument `y` if there is one.

    The arguments have a leading dimension K; weight and bias are float32; weight, bias and orders are contiguous.
    """
    y = torch.empty_like(a.x, memory_format=torch.contiguous_format) if y is None else y
    _launch(ConvLaunchConfig("conv", RUN, BATCH), a, y=y)
    return y


def run_conv_backward_kernel(
    a: CausalConvArguments, grad_y: Tensor, *, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (written to `grad_x` if there is one), weight and bias (float32)."""
    if grad_x is None:
        grad_x = torch.empty_like(a.x, memory_format=torch.contiguous_format)
    paths, batch, length, channels = a.x.shape
    run = choose_backward_run(a.x.numel())
    shape = (a.weight.shape[2] + 1, paths, batch, -(-length // run), channels)
    grads = torch.empty(shape, dtype=torch.float32, device=a.x.device)
    _launch(ConvLaunchConfig("conv_backward", run, BATCH_BACKWARD), a, grad_y=grad_y, grad_x=grad_x, grads=grads)
    summed = grads.sum((2, 3))  # [W + 1, K, E]
    return grad_x, summed[:-1].permute(1, 2, 0).contiguous(), summed[-1]


def choose_backward_run(numbers: int) -> int:
    """The steps per thread: as many as possible with enough threads, because then few rows are read twice."""
    return 128 if numbers >= 2**24 else 32


def _launch(
    config: ConvLaunchConfig,
    a: CausalConvArguments,
    *,
    y: Tensor | None = None,
    grad_y: Tensor | None = None,
    grad_x: Tensor | None = None,
    grads: Tensor | None = None,
) -> None:
    paths, batch, length, channels = a.x.shape
    groups, runs = -(-channels // VECTOR), -(-length // config.run)
    across = min(128, 1 << (groups - 1).bit_length())
    along = 128 // across
    rows = (a.x, y, grad_y, grad_x)
    vector = is_readable_by(VECTOR * a.x.element_size(), *rows)
    kernel = _conv_kernel(
        a.x.get_device(), config, a.x.dtype, a.weight.shape[2], across, vector, a.silu, a.segment_starts is not None
    )
    call = CONV.pack(rows, (a.weight, a.bias, a.path, a.segment_starts, grads), (batch, length, channels, runs))
    kernel.launch((-(-groups // across), -(-runs // along), paths * batch), (across, along, 1), call)


@functools.cache
def _conv_kernel(
    index: int, config: ConvLaunchConfig, dtype: torch.dtype, width: int, across: int, vector: bool, silu: bool,
    segments: bool,
) -> CudaKernel:  # fmt: skip
    return load_kernel(
        SOURCE, config.kernel, index, IO=dtype, WIDTH=width, RUN=config.run, BATCH=config.ahead, X=across,
        Y=128 // across, VECTOR=vector, SILU=silu, SEGMENTS=segments,
    )  # fmt: skip
