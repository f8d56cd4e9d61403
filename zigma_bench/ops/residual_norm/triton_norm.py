"""The residual norm in Triton, as an operator that PyTorch knows.

Kept for the backward are its inputs and r', which the next layer reads anyway: m, which the projection's gradient
needs, is written again over its own gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.cuda.library import define
from zigma_bench.ops.products import product
from zigma_bench.ops.residual_norm.triton_kernels import add_up, gradients, outputs
from zigma_bench.ops.triton_device import card, current

PROGRAMS = 6  # of a processor; measured, as NUMBERS, on an H100 at 16,384 rows of 768
NUMBERS = 4  # of a thread, of a row or of several short ones
SUMS, COLUMNS = 32, 64  # strips at a time, and columns, of a program that adds strips up


def norm(
    r: Tensor, y: Tensor | None, gate: Tensor | None, before: Tensor | None, kept: Tensor | None, weight: Tensor,
    shift: Tensor, scale: Tensor, projection: Tensor | None, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `residual_norm`."""
    assert r.dtype == torch.float32 and (y is None) == (gate is None)
    found: tuple[Tensor, Tensor] = _forward(r, y, gate, before, kept, weight, shift, scale, projection, eps, dtype)
    return found


class _Launch:
    """Strips of rows that fill the card, and how a program takes them."""

    def __init__(self, r: Tensor) -> None:
        batch, length, width = r.shape
        self.D = 1 << (width - 1).bit_length()
        self.rows = max(1, 512 // self.D)
        self.warps = min(16, max(1, self.rows * self.D // (32 * NUMBERS)))
        programs = max(1, PROGRAMS * card(r.device)[0] // batch)
        self.strip = -(-length // (programs * self.rows)) * self.rows
        self.strips = -(-length // self.strip)
        self.sizes = (length, width, self.strip)

    def __call__(self, kernel: Any, batch: int, *arguments: Any) -> None:
        kernel[self.strips, batch](*arguments, ROWS=self.rows, D=self.D, num_warps=self.warps)


def _rows_of(*tensors: Tensor | None) -> tuple[list[Tensor | None], list[int]]:
    """[B, D] each with numbers side by side, and the steps from one row to the next."""
    dense = [None if x is None else x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    return dense, [0 if x is None else x.stride(0) for x in dense]


def _run(
    r: Tensor, y: Tensor | None, gate: Tensor | None, before: Tensor | None, kept: Tensor | None, weight: Tensor,
    shift: Tensor, scale: Tensor, projection: Tensor | None, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r, y = r.contiguous(), None if y is None else y.contiguous()
    (gate_, shift_, scale_), steps = _rows_of(gate, shift, scale)
    r_out, m, launch = torch.empty_like(r), torch.empty_like(r, dtype=dtype), _Launch(r)
    with current(r.device):
        launch(outputs, len(r), r, y, gate_, before, kept, weight, shift_, scale_, r_out, m, *steps, *launch.sizes, eps)
    return r_out, m if projection is None else m @ projection.to(dtype).t()


def _shapes(
    r: Tensor, y: Tensor | None, gate: Tensor | None, before: Tensor | None, kept: Tensor | None, weight: Tensor,
    shift: Tensor, scale: Tensor, projection: Tensor | None, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    width = r.shape[-1] if projection is None else projection.shape[0]
    return r.new_empty(r.shape), r.new_empty((*r.shape[:-1], width), dtype=dtype)


def _run_backward(
    of_r_out: Tensor, of_out: Tensor, r_out: Tensor, r: Tensor | None, y: Tensor | None, gate: Tensor | None,
    before: Tensor | None, kept: Tensor | None, weight: Tensor, shift: Tensor, scale: Tensor, projection: Tensor | None,
    eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    r, y = (None if x is None else x.contiguous() for x in (r, y))
    (gate_, shift_, scale_), steps = _rows_of(gate, shift, scale)
    of_m = of_out.contiguous() if projection is None else of_out @ projection.to(of_out.dtype)
    m = None if projection is None else of_m
    launch, (batch, _, width) = _Launch(r_out), r_out.shape
    of_r, of_y = torch.empty_like(r_out), None if y is None else torch.empty_like(y)
    of_sample, of_all = (r_out.new_empty(batch, launch.strips, count, width) for count in (3, 2))
    with current(r_out.device):
        launch(
            gradients, batch, of_r_out.contiguous(), of_m, r, y, r_out, gate_, before, kept, weight, shift_, scale_,
            of_r, of_y, m, of_sample, of_all, *steps, *launch.sizes, eps,
        )  # fmt: skip
    of_projection = None
    if projection is not None:
        of_projection = product(of_out.flatten(0, -2).t(), of_m.flatten(0, -2), projection.dtype)
    of_vectors = [
        None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (gate, before, weight, shift, scale)
    ]
    with current(r_out.device):
        add_up[-(-width // COLUMNS), batch + 1](
            of_sample, of_all, *of_vectors, launch.strips, batch, width, ROWS=SUMS, D=COLUMNS
        )
    return tuple(r_out.new_empty(0) if x is None else x for x in (of_r, of_y, *of_vectors, of_projection))


def _backward_shapes(
    of_r_out: Tensor, of_out: Tensor, r_out: Tensor, r: Tensor | None, y: Tensor | None, gate: Tensor | None,
    before: Tensor | None, kept: Tensor | None, weight: Tensor, shift: Tensor, scale: Tensor, projection: Tensor | None,
    eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    found = (r_out, y, gate, before, weight, shift, scale, projection)
    return tuple(r_out.new_empty(0) if x is None else x.new_empty(x.shape) for x in found)


def _flops(r: Any, *more: Any) -> int:
    projection = more[7]
    return 0 if projection is None else 2 * math.prod(map(int, r)) * int(projection[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    r, y, gate, before, *tensors, ctx.eps, _ = inputs
    ctx.save_for_backward(output[0], None if before is None else r, y, gate, before, *tensors)


def _differentiate(ctx: Any, of_r_out: Tensor, of_out: Tensor) -> tuple[Tensor | None, ...]:
    r_out, r, y, gate, before, kept, *rest = ctx.saved_tensors
    found = _backward(of_r_out, of_out, r_out, r, y, gate, before, kept, *rest, ctx.eps)
    of_r, of_y, of_gate, of_before, of_weight, of_shift, of_scale, of_projection = (
        None if given is None else grad for given, grad in zip((r_out, y, gate, before, *rest), found, strict=True)
    )
    return of_r, of_y, of_gate, of_before, None, of_weight, of_shift, of_scale, of_projection, None, None


ARGUMENTS = (
    "Tensor? y, Tensor? gate, Tensor? before, Tensor? kept, Tensor weight, Tensor shift, Tensor scale, "
    "Tensor? projection, float eps"
)
_forward = define(
    "residual_norm",
    f"(Tensor r, {ARGUMENTS}, ScalarType dtype) -> (Tensor, Tensor)",
    _run,
    _shapes,
    _flops,
    keep=_keep,
    differentiate=_differentiate,
    devices=("cuda", "cpu"),
)
_backward = define(
    "residual_norm_backward",
    f"(Tensor of_r_out, Tensor of_out, Tensor r_out, Tensor? r, {ARGUMENTS}) -> ({', '.join(['Tensor'] * 8)})",
    _run_backward,
    _backward_shapes,
    lambda of_r_out, of_out, r_out, r, *more: 2 * _flops(r_out, *more),
    devices=("cuda", "cpu"),
)
