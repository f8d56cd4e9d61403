"""The inner part of a Mamba mixer as one operator on an NVIDIA GPU: convolution, projections, scan and gate.

`mixers.mamba.mixer.Branch` computes the same with separate operators. As one operator it saves less for the backward
pass: the projections of u and some states. u and delta are recomputed, as in mamba-ssm's mamba_inner_fn; with out_proj,
y is recomputed too, by the backward pass of the scan. The two halves of the gradient of xz are written to one tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import contiguous, dense_rows
from zigma_bench.ops.backends import backend_named
from zigma_bench.ops.causal_conv import CausalConvArguments
from zigma_bench.ops.causal_conv.fused import count_conv_flops
from zigma_bench.ops.causal_conv.launch import run_conv_backward_kernel, run_conv_kernel
from zigma_bench.ops.cuda.library import define_operator
from zigma_bench.ops.products import multiply_matrices
from zigma_bench.ops.selective_scan import SelectiveScanArguments
from zigma_bench.ops.selective_scan.fused import count_scan_flops
from zigma_bench.ops.selective_scan.launch import SAVE, ScanGradients, run_backward_kernels, run_forward_kernels


@dataclass(frozen=True)
class MambaInnerArguments:
    """The arguments of `mamba_inner`, which describes them."""

    xz: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    out_proj: Tensor | None
    path: Tensor | None
    segment_starts: Tensor | None

    @property
    def weights(self) -> tuple[Tensor | None, ...]:
        """All parameters."""
        return (
            self.conv_weight, self.conv_bias, self.x_proj, self.dt_proj, self.dt_bias, self.A, self.D, self.out_proj,
        )  # fmt: skip

    def with_projections_cast(self) -> MambaInnerArguments:
        """The arguments with x_proj, dt_proj and out_proj in the dtype of xz.

        Each pass casts them once; the backward pass casts them again, to save memory.
        """
        dtype = self.xz.dtype
        out_proj = None if self.out_proj is None else self.out_proj.to(dtype)
        return replace(self, x_proj=self.x_proj.to(dtype), dt_proj=self.dt_proj.to(dtype), out_proj=out_proj)

    def halves(self) -> tuple[Tensor, ...]:
        """x and z [K, B, L, E], the same rows for all paths."""
        return dense_rows(self.xz)[None].expand(len(self.A), -1, -1, -1).chunk(2, dim=-1)

    def conv_arguments(self) -> CausalConvArguments:
        x, _ = self.halves()
        weights = self.conv_weight.contiguous(), self.conv_bias.contiguous()
        return CausalConvArguments(x, *weights, contiguous(self.path), contiguous(self.segment_starts), True)

    def scan_arguments(self, u: Tensor, projected: Tensor) -> SelectiveScanArguments:
        """The arguments of the scan, from u and its projections [K, B, L, R + 2N]; dt_proj has their dtype."""
        rank, states = self.dt_proj.shape[2], self.A.shape[2]
        delta = _multiply_paths(projected.flatten(1, 2)[..., :rank], self.dt_proj.mT).view_as(u)
        B, C = projected[..., rank : rank + states], projected[..., rank + states :]
        A, D, bias = self.A.contiguous(), self.D.contiguous(), self.dt_bias.contiguous()
        orders = contiguous(self.path), contiguous(self.segment_starts)
        return SelectiveScanArguments(u, delta, A, B, C, D, self.halves()[1], bias, True, *orders, None)


def mamba_inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    path: Tensor | None,
    segment_starts: Tensor | None,
    out_proj: Tensor | None = None,
    backend: str,
) -> Tensor:
    """xz [B, L, 2E] -> [K, B, L, E]: u = causal_conv(x); dt, B, C = x_proj u; delta = dt_proj dt; y = selective_scan.

    K paths, each with its own parameters. With out_proj [D, E]: out_proj of the sum over the paths, [B, L, D].

    conv_weight [K, E, W]; x_proj [K, R + 2N, E]; dt_proj [K, E, R]; A [K, E, N]; conv_bias, dt_bias, D [K, E]. The
    projections are computed in xz's dtype, the rest in float32. path and segment_starts are [K, L] or None, as in
    `selective_scan`. `backend`: one whose `operators` have mamba_inner.
    """
    arguments = MambaInnerArguments(
        xz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj, path, segment_starts
    )
    implementation = backend_named(backend).operators["mamba_inner"]
    if (error := implementation.refuse(arguments)) is not None:
        raise error.at("mamba_inner")
    y: Tensor = implementation.apply(arguments)
    return y


def fused_mamba_inner(arguments: MambaInnerArguments) -> Tensor:
    """See `mamba_inner`."""
    a = arguments
    tensors = (a.xz, *(weight for weight in a.weights if weight is not None))
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    y: Tensor = _forward(
        a.xz, a.conv_weight.float(), a.conv_bias.float(), a.x_proj, a.dt_proj, a.dt_bias.float(), a.A.float(),
        a.D.float(), a.out_proj, a.path, a.segment_starts, save,
    )[0]  # fmt: skip
    return y


def _multiply_paths(a: Tensor, b: Tensor) -> Tensor:
    """a [K, M, I] times b [K, I, J], path by path; a single product uses the routine for one."""
    return (a[0] @ b[0])[None] if len(a) == 1 else torch.bmm(a, b)


def _multiply_paths_in(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The same in another dtype."""
    return multiply_matrices(a[0], b[0], dtype)[None] if len(a) == 1 else multiply_matrices(a, b, dtype)


def _sum_paths(paths: Tensor) -> Tensor:
    return paths[0] if len(paths) == 1 else paths.sum(0)


def _run(*fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, save = fields
    a = MambaInnerArguments(*inputs).with_projections_cast()
    u = run_conv_kernel(a.conv_arguments())
    projected = _multiply_paths(u.flatten(1, 2), a.x_proj.mT).view(*u.shape[:3], -1)
    y, saved = run_forward_kernels(a.scan_arguments(u, projected), save=save)
    return y if a.out_proj is None else _sum_paths(y) @ a.out_proj.t(), projected, saved


def _fake_run(*fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, save = fields
    a = MambaInnerArguments(*inputs)
    batch, length, _ = a.xz.shape
    paths, channels, states = a.A.shape
    shape = (paths, batch, -(-length // SAVE), channels, states) if save else (0,)
    out = (paths, batch, length, channels) if a.out_proj is None else (batch, length, a.out_proj.shape[0])
    projected = a.xz.new_empty(paths, batch, length, a.x_proj.shape[1])
    return a.xz.new_empty(out), projected, a.A.new_empty(shape)


def _run_backward(grad: Tensor, projected: Tensor, saved: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    weights = MambaInnerArguments(*fields)
    a, wide = weights.with_projections_cast(), weights.x_proj.dtype  # all weights have one dtype
    one_path = len(a.A) == 1
    grad_xz = torch.empty_like(a.xz, memory_format=torch.contiguous_format)
    halves = grad_xz[None].chunk(2, dim=-1)  # one path writes them directly; until then, the first half contains u
    conv = a.conv_arguments()
    u = run_conv_kernel(conv, y=halves[0] if one_path else None)
    found, grad_out_proj = _scan_backward(a, grad, u, projected, saved, halves[1] if one_path else None, wide)
    grad_x_proj, grad_dt_proj = _projections_backward(a, u, projected, found, wide)
    grad_x, grad_weight, grad_bias = run_conv_backward_kernel(conv, found.u, grad_x=halves[0] if one_path else None)
    if not one_path:
        assert found.z is not None
        for half, grads in zip(halves, (grad_x, found.z), strict=True):
            half[0] = grads.sum(0)
    return grad_xz, grad_weight, grad_bias, grad_x_proj, grad_dt_proj, found.bias, found.A, found.D, grad_out_proj


def _scan_backward(
    a: MambaInnerArguments,
    grad: Tensor,
    u: Tensor,
    projected: Tensor,
    saved: Tensor,
    grad_z: Tensor | None,
    wide: torch.dtype,
) -> tuple[ScanGradients, Tensor]:
    """Gradients of the scan's arguments, and of out_proj in the dtype `wide` (empty without it)."""
    scan = a.scan_arguments(u, projected)
    grad_y = grad if a.out_proj is None else (grad @ a.out_proj).expand_as(u)
    y = None
    if a.out_proj is not None:  # y is recomputed; for a single path, it overwrites its own gradient
        y = grad_y if len(a.A) == 1 else torch.empty_like(u)
    found = run_backward_kernels(scan, dense_rows(grad_y), saved, grad_z=grad_z, y=y, grad_delta=scan.delta)
    if y is None:
        return found, a.A.new_empty(0)
    return found, multiply_matrices(grad.flatten(0, 1).t(), _sum_paths(y).flatten(0, 1), wide)


def _projections_backward(
    a: MambaInnerArguments, u: Tensor, projected: Tensor, found: ScanGradients, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of x_proj and dt_proj in the dtype `wide`; adds the gradient through x_proj to `found.u`."""
    rank = a.dt_proj.shape[2]
    grad_projected = torch.empty_like(projected)
    grad_projected[..., rank:] = found.BC.flatten(3)
    rows, grad_rows, grad_delta, grad_u = (
        tensor.flatten(1, 2) for tensor in (projected, grad_projected, found.delta, found.u)
    )
    grad_rows[..., :rank] = _multiply_paths(grad_delta, a.dt_proj)
    grad_x_proj = _multiply_paths_in(grad_rows.mT, u.flatten(1, 2), wide)
    grad_dt_proj = _multiply_paths_in(grad_delta.mT, rows[..., :rank], wide)
    if len(a.A) == 1:
        grad_u[0].addmm_(grad_rows[0], a.x_proj[0])
    else:
        grad_u.baddbmm_(grad_rows, a.x_proj)
    return grad_x_proj, grad_dt_proj


def _fake_backward(grad: Tensor, projected: Tensor, saved: Tensor, *fields: Any) -> tuple[Tensor, ...]:
    a = MambaInnerArguments(*fields)
    return tuple(
        a.A.new_empty(0) if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor in (a.xz, *a.weights)
    )


def _count_flops(*shapes: Any) -> int:
    a = MambaInnerArguments(*shapes[:11])  # of shapes instead of tensors
    xz, conv_weight, x_proj, dt_proj, A, out_proj = a.xz, a.conv_weight, a.x_proj, a.dt_proj, a.A, a.out_proj
    rows: Any = (A[0], *xz[:2], A[1])
    projections = 2 * math.prod(map(int, rows)) * int(x_proj[1] + dt_proj[2])
    projections += 0 if out_proj is None else 2 * math.prod(map(int, (*xz[:2], *out_proj)))
    return projections + count_conv_flops(rows, conv_weight) + count_scan_flops(rows, rows, A)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], output[2], *inputs[:-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    _, _, *fields = ctx.saved_tensors
    *grads, grad_out_proj = _backward(grad, *ctx.saved_tensors)
    return (*grads, None if MambaInnerArguments(*fields).out_proj is None else grad_out_proj, None, None, None)


SCHEMA = (
    "Tensor xz, Tensor conv_weight, Tensor conv_bias, Tensor x_proj, Tensor dt_proj, Tensor dt_bias, Tensor A, "
    "Tensor D, Tensor? out_proj, Tensor? path, Tensor? segment_starts"
)
_forward = define_operator(
    "mamba_inner",
    f"({SCHEMA}, bool save) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake_run,
    _count_flops,
    save=_save,
    differentiate=_differentiate,
)
_backward = define_operator(
    "mamba_inner_backward",
    f"(Tensor grad, Tensor projected, Tensor saved, {SCHEMA}) -> ({', '.join(['Tensor'] * 9)})",
    _run_backward,
    _fake_backward,
    lambda grad, projected, saved, *arguments: 2 * _count_flops(*arguments),
)
