"""The residual norm in Triton, as a registered operator of PyTorch.

The inputs and r' are saved for the backward pass; the next layer saves r' anyway. m, which is needed for the gradient
of the projection, is recomputed and overwrites its own gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import contiguous
from zigma_bench.ops.cuda.library import define_operator
from zigma_bench.ops.norms import ResidualNormArguments
from zigma_bench.ops.norms.triton_kernels import (
    add_strips_kernel,
    residual_norm_gradients_kernel,
    residual_norm_kernel,
)
from zigma_bench.ops.products import multiply_matrices
from zigma_bench.ops.triton_device import gpu_parallelism, use_gpu

PROGRAMS = 6  # programs per multiprocessor; tuned, like NUMBERS, on an H100 with 16,384 rows of 768
NUMBERS = 4  # numbers per thread, from one row or from several short ones
SUMS, COLUMNS = 32, 64  # strips at a time, and columns, per program that adds strips


def triton_residual_norm(arguments: ResidualNormArguments) -> tuple[Tensor, Tensor]:
    """See `residual_norm`."""
    a = arguments
    assert a.r.dtype == torch.float32 and (a.y is None) == (a.gate is None)
    outputs: tuple[Tensor, Tensor] = _forward(
        a.r, a.y, a.gate, a.skip, a.factor, a.weight, a.shift, a.scale, a.projection, a.eps, a.dtype
    )
    return outputs


@dataclass(frozen=True)
class NormLaunchConfig:
    """How rows are divided into strips that fill the GPU: rows and numbers per row at a time, and warps per program."""

    rows: int
    numbers: int
    warps: int
    strip: int
    strips: int


def choose_norm_launch_config(batch: int, length: int, width: int, processors: int) -> NormLaunchConfig:
    """A config with about PROGRAMS programs per multiprocessor."""
    numbers = 1 << (width - 1).bit_length()
    rows = max(1, 512 // numbers)
    warps = min(16, max(1, rows * numbers // (32 * NUMBERS)))
    programs = max(1, PROGRAMS * processors // batch)
    strip = -(-length // (programs * rows)) * rows
    return NormLaunchConfig(rows, numbers, warps, strip, -(-length // strip))


def _config_for(r: Tensor) -> NormLaunchConfig:
    batch, length, width = r.shape
    return choose_norm_launch_config(batch, length, width, gpu_parallelism(r.device)[0])


def _launch(kernel: Any, config: NormLaunchConfig, r: Tensor, *arguments: Any, eps: float) -> None:
    """Launch a kernel over the strips of all samples of r."""
    batch, length, width = r.shape
    with use_gpu(r.device):
        kernel[config.strips, batch](
            *arguments, length, width, config.strip, eps, ROWS=config.rows, D=config.numbers, num_warps=config.warps
        )


def _dense_vectors(*tensors: Tensor | None) -> tuple[list[Tensor | None], list[int]]:
    """The vectors [B, D], each with adjacent numbers, and the stride between their rows."""
    dense = [None if x is None else x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    return dense, [0 if x is None else x.stride(0) for x in dense]


def _run(*values: Any) -> tuple[Tensor, Tensor]:
    a = ResidualNormArguments(*values)
    r, y = a.r.contiguous(), contiguous(a.y)
    (gate, shift, scale), strides = _dense_vectors(a.gate, a.shift, a.scale)
    r_out, m = torch.empty_like(r), torch.empty_like(r, dtype=a.dtype)
    _launch(
        residual_norm_kernel, _config_for(r), r, r, y, gate, a.skip, a.factor, a.weight, shift, scale, r_out, m,
        *strides, eps=a.eps,
    )  # fmt: skip
    return r_out, m if a.projection is None else m @ a.projection.to(a.dtype).t()


def _fake_run(*values: Any) -> tuple[Tensor, Tensor]:
    a = ResidualNormArguments(*values)
    width = a.r.shape[-1] if a.projection is None else a.projection.shape[0]
    return a.r.new_empty(a.r.shape), a.r.new_empty((*a.r.shape[:-1], width), dtype=a.dtype)


def _run_backward(grad_r_out: Tensor, grad_out: Tensor, r_out: Tensor, *values: Any) -> tuple[Tensor, ...]:
    """`values`: those of `_run` except the dtype; r is None if only r_out is needed."""
    a = ResidualNormArguments(*(*values, grad_out.dtype))
    grad_m = grad_out.contiguous() if a.projection is None else grad_out @ a.projection.to(grad_out.dtype)
    m = None if a.projection is None else grad_m  # overwrites it
    grad_r, grad_y, sums_sample, sums_all = _launch_gradients(a, grad_r_out.contiguous(), grad_m, r_out, m)
    grad_projection = None
    if a.projection is not None:
        grad_projection = multiply_matrices(grad_out.flatten(0, -2).t(), grad_m.flatten(0, -2), a.projection.dtype)
    grad_vectors = _add_strips(a, sums_sample, sums_all)
    return tuple(r_out.new_empty(0) if x is None else x for x in (grad_r, grad_y, *grad_vectors, grad_projection))


def _launch_gradients(
    a: ResidualNormArguments, grad_r_out: Tensor, grad_m: Tensor, r_out: Tensor, m: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of r and y, and the sums of each strip: [B, strips, 3, D] and [B, strips, 2, D]."""
    r, y = contiguous(a.r), contiguous(a.y)
    (gate, shift, scale), strides = _dense_vectors(a.gate, a.shift, a.scale)
    config, (batch, _, width) = _config_for(r_out), r_out.shape
    grad_r, grad_y = torch.empty_like(r_out), None if y is None else torch.empty_like(y)
    sums_sample, sums_all = (r_out.new_empty(batch, config.strips, count, width) for count in (3, 2))
    _launch(
        residual_norm_gradients_kernel, config, r_out, grad_r_out, grad_m, r, y, r_out, gate, a.skip, a.factor,
        a.weight, shift, scale, grad_r, grad_y, m, sums_sample, sums_all, *strides, eps=a.eps,
    )  # fmt: skip
    return grad_r, grad_y, sums_sample, sums_all


def _add_strips(a: ResidualNormArguments, sums_sample: Tensor, sums_all: Tensor) -> list[Tensor | None]:
    """Gradients of gate, skip, weight, shift and scale: the sums of the strips, added in a fixed order."""
    batch, strips, _, width = sums_sample.shape
    grads = [
        None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (a.gate, a.skip, a.weight, a.shift, a.scale)
    ]
    with use_gpu(sums_all.device):
        add_strips_kernel[-(-width // COLUMNS), batch + 1](
            sums_sample, sums_all, *grads, strips, batch, width, ROWS=SUMS, D=COLUMNS
        )
    return grads


def _fake_backward(grad_r_out: Tensor, grad_out: Tensor, r_out: Tensor, *values: Any) -> tuple[Tensor, ...]:
    a = ResidualNormArguments(*(*values, grad_out.dtype))
    found = (r_out, a.y, a.gate, a.skip, a.weight, a.shift, a.scale, a.projection)
    return tuple(r_out.new_empty(0) if x is None else x.new_empty(x.shape) for x in found)


def _count_flops(*shapes: Any) -> int:
    r, projection = shapes[0], shapes[8]
    return 0 if projection is None else 2 * math.prod(map(int, r)) * int(projection[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    r, y, gate, skip, *tensors, ctx.eps, _ = inputs
    ctx.save_for_backward(output[0], None if skip is None else r, y, gate, skip, *tensors)


def _differentiate(ctx: Any, grad_r_out: Tensor, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    r_out, r, y, gate, skip, factor, *rest = ctx.saved_tensors
    found = _backward(grad_r_out, grad_out, r_out, r, y, gate, skip, factor, *rest, ctx.eps)
    inputs = (r_out, y, gate, skip, *rest)
    grads = [None if tensor is None else grad for tensor, grad in zip(inputs, found, strict=True)]
    return (*grads[:4], None, *grads[4:], None, None)


SCHEMA = (
    "Tensor? y, Tensor? gate, Tensor? skip, Tensor? factor, Tensor weight, Tensor shift, Tensor scale, "
    "Tensor? projection, float eps"
)
_forward = define_operator(
    "residual_norm",
    f"(Tensor r, {SCHEMA}, ScalarType dtype) -> (Tensor, Tensor)",
    _run,
    _fake_run,
    _count_flops,
    save=_save,
    differentiate=_differentiate,
    devices=("cuda", "cpu"),
)
_backward = define_operator(
    "residual_norm_backward",
    f"(Tensor grad_r_out, Tensor grad_out, Tensor r_out, Tensor? r, {SCHEMA}) -> ({', '.join(['Tensor'] * 8)})",
    _run_backward,
    _fake_backward,
    lambda grad_r_out, grad_out, r_out, r, *more: 2 * _count_flops(r_out, *more),
    devices=("cuda", "cpu"),
)
