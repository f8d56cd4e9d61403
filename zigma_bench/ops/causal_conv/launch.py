"""Launches of conv.cu, which reads and writes rows through the path on an NVIDIA card."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from zigma_bench.ops.cuda.program import kernel
from zigma_bench.ops.cuda.rows import Rows, readable_by

SOURCE = Path(__file__).with_name("conv.cu")
RUN, RUN_BACKWARD = 32, 64  # steps of a thread
VECTOR = 4  # channels of a thread


class _Conv(ctypes.Structure):
    """`Conv` of conv.cu, field by field."""

    _fields_ = (
        *((name, Rows) for name in ("x", "y", "grad_y", "grad_x")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "path", "since", "grad_parameters")),
        *((name, ctypes.c_int) for name in ("length", "channels", "runs")),
    )


def forward(x: Tensor, weight: Tensor, bias: Tensor, path: Tensor | None, since: Tensor | None, silu: bool) -> Tensor:
    """y [B, L, E] in x's dtype; weight [E, W] and bias [E] float32, contiguous."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    call = _describe(x, weight, bias, path, since, RUN)
    call.y = Rows.of(y)
    _launch("conv", call, x, [x, y], weight, since, silu, RUN)
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
    call = _describe(x, weight, bias, path, since, RUN_BACKWARD)
    shape = (weight.shape[1] + 1, x.shape[0], call.runs, x.shape[2])
    grads = torch.empty(shape, dtype=torch.float32, device=x.device)
    call.grad_y, call.grad_x, call.grad_parameters = Rows.of(grad_y), Rows.of(grad_x), grads.data_ptr()
    _launch("conv_backward", call, x, [x, grad_y, grad_x], weight, since, silu, RUN_BACKWARD)
    summed = grads.sum((1, 2))
    return grad_x, summed[:-1].t().contiguous(), summed[-1]


def _describe(x: Tensor, weight: Tensor, bias: Tensor, path: Tensor | None, since: Tensor | None, run: int) -> _Conv:
    call = _Conv()
    call.x, call.weight, call.bias = Rows.of(x), weight.data_ptr(), bias.data_ptr()
    call.path, call.since = (None if tensor is None else tensor.data_ptr() for tensor in (path, since))
    _, call.length, call.channels = x.shape
    call.runs = -(-call.length // run)
    return call


def _launch(
    name: str,
    call: _Conv,
    x: Tensor,
    rows: list[Tensor | None],
    weight: Tensor,
    since: Tensor | None,
    silu: bool,
    run: int,
) -> None:
    groups = -(-call.channels // VECTOR)
    across = min(128, 1 << (groups - 1).bit_length())
    along = 128 // across
    vector = readable_by(rows, VECTOR * x.element_size())
    built = kernel(
        SOURCE, name, x.device, IO=x.dtype, WIDTH=weight.shape[1], RUN=run, X=across, Y=along,
        VECTOR=vector, SILU=silu, SEGMENTS=since is not None,
    )  # fmt: skip
    built.launch((-(-groups // across), -(-call.runs // along), len(x)), (across, along, 1), call)
