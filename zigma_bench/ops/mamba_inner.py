"""The inner part of a Mamba mixer as one operator on an NVIDIA card: convolution, projections, scan and gate.

`mixers.mamba.mixer.Branch` computes the same with the operators one by one. As one it keeps less for the backward
(the projections of u and some states; u and delta are computed again, as in mamba-ssm's mamba_inner_fn, and with
out_proj so is y, which the scan's backward meets on its way) and writes the two halves of the gradient of xz into one
tensor.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import dense_rows
from zigma_bench.ops.causal_conv import fused as causal_conv
from zigma_bench.ops.causal_conv import launch as conv
from zigma_bench.ops.cuda.library import define
from zigma_bench.ops.products import product
from zigma_bench.ops.selective_scan import fused as selective_scan
from zigma_bench.ops.selective_scan import launch
from zigma_bench.ops.selective_scan.launch import SAVE, Inputs


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
    since: Tensor | None,
    out_proj: Tensor | None = None,
) -> Tensor:
    """xz [B, L, 2E] -> [K, B, L, E]: u = causal_conv(x); dt, B, C = x_proj u; delta = dt_proj dt; y = selective_scan.

    K paths, each with parameters of its own. With out_proj [D, E]: out_proj of the sum over the paths, [B, L, D].

    conv_weight [K, E, W]; x_proj [K, R + 2N, E]; dt_proj [K, E, R]; A [K, E, N]; conv_bias, dt_bias, D [K, E]. The
    projections are computed in xz's dtype, the rest in float32. path and since [K, L] or None, as in `selective_scan`.
    """
    selective_scan.check_states(A.shape[2])
    parameters = (conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, *(() if out_proj is None else (out_proj,)))
    save = torch.is_grad_enabled() and (xz.requires_grad or any(tensor.requires_grad for tensor in parameters))
    y: Tensor = _forward(
        xz, conv_weight.float(), conv_bias.float(), x_proj, dt_proj, dt_bias.float(), A.float(), D.float(), out_proj,
        path, since, save,
    )[0]  # fmt: skip
    return y


def _inputs(
    z: Tensor, u: Tensor, projected: Tensor, dt_proj: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor,
    path: Tensor | None, since: Tensor | None,
) -> Inputs:  # fmt: skip
    rank, states = dt_proj.shape[2], A.shape[2]
    delta = _times(projected.flatten(1, 2)[..., :rank], dt_proj.mT).view_as(u)
    B, C = projected[..., rank : rank + states], projected[..., rank + states :]
    path, since = (None if tensor is None else tensor.contiguous() for tensor in (path, since))
    return Inputs(u, delta, A.contiguous(), B, C, D.contiguous(), z, dt_bias.contiguous(), True, path, since)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a [K, M, I] times b [K, I, J], path by path; a single product is left to the routines for one."""
    return (a[0] @ b[0])[None] if len(a) == 1 else torch.bmm(a, b)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The same in another dtype."""
    return product(a[0], b[0], dtype)[None] if len(a) == 1 else product(a, b, dtype)


def _run(
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, A: Tensor,
    D: Tensor, out_proj: Tensor | None, path: Tensor | None, since: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x, z = _both(xz, len(A))
    x_proj, dt_proj, out_proj = _as(xz, x_proj, dt_proj, out_proj)
    u = conv.forward(x, conv_weight.contiguous(), conv_bias.contiguous(), path, since, True)
    projected = _times(u.flatten(1, 2), x_proj.mT).view(*u.shape[:3], -1)
    y, saved = launch.forward(_inputs(z, u, projected, dt_proj, dt_bias, A, D, path, since), save=save)
    return y if out_proj is None else _sum(y) @ out_proj.t(), projected, saved


def _as(rows: Tensor, *weights: Tensor | None) -> Any:
    """Weights in the dtype of the rows: made again by the backward, which so keeps no copies."""
    return (None if weight is None else weight.to(rows.dtype) for weight in weights)


def _sum(paths: Tensor) -> Tensor:
    return paths[0] if len(paths) == 1 else paths.sum(0)


def _both(xz: Tensor, paths: int) -> tuple[Tensor, ...]:
    """x and z [K, B, L, E], the same rows for all paths."""
    return dense_rows(xz)[None].expand(paths, -1, -1, -1).chunk(2, dim=-1)


def _shapes(
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, A: Tensor,
    D: Tensor, out_proj: Tensor | None, path: Tensor | None, since: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    batch, length, _ = xz.shape
    paths, channels, states = A.shape
    shape = (paths, batch, -(-length // SAVE), channels, states) if save else (0,)
    out = (paths, batch, length, channels) if out_proj is None else (batch, length, out_proj.shape[0])
    return xz.new_empty(out), xz.new_empty(paths, batch, length, x_proj.shape[1]), A.new_empty(shape)


def _run_backward(
    grad: Tensor, projected: Tensor, saved: Tensor, xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor,
    dt_proj: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, out_proj: Tensor | None, path: Tensor | None,
    since: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    x, z = _both(xz, len(A))
    wide = x_proj.dtype  # of all weights
    x_proj, dt_proj, out_proj = _as(xz, x_proj, dt_proj, out_proj)
    conv_weight, conv_bias = conv_weight.contiguous(), conv_bias.contiguous()
    rank, alone = dt_proj.shape[2], len(A) == 1
    grad_xz = torch.empty_like(xz, memory_format=torch.contiguous_format)
    halves = grad_xz[None].chunk(2, dim=-1)  # a single path writes them at once; u lies where the first one will
    u = conv.forward(x, conv_weight, conv_bias, path, since, True, y=halves[0] if alone else None)
    given = _inputs(z, u, projected, dt_proj, dt_bias, A, D, path, since)
    of_y = grad if out_proj is None else (grad @ out_proj).expand_as(u)
    y = None  # of a single path it takes the rows of its gradient, each once that is read
    if out_proj is not None:
        y = of_y if alone else torch.empty_like(u)
    found = launch.backward(
        given, dense_rows(of_y), saved, grad_z=halves[1] if alone else None, y=y, grad_delta=given.delta
    )
    of_out_proj = A.new_empty(0) if y is None else product(grad.flatten(0, 1).t(), _sum(y).flatten(0, 1), wide)
    grad_projected = torch.empty_like(projected)
    grad_projected[..., rank:] = found.BC.flatten(3)
    rows, grad_rows, grad_delta, grad_u = (
        tensor.flatten(1, 2) for tensor in (projected, grad_projected, found.delta, found.u)
    )
    grad_rows[..., :rank] = _times(grad_delta, dt_proj)
    of_x_proj = _product(grad_rows.mT, u.flatten(1, 2), wide)
    of_dt_proj = _product(grad_delta.mT, rows[..., :rank], wide)
    if alone:
        grad_u[0].addmm_(grad_rows[0], x_proj[0])
    else:
        grad_u.baddbmm_(grad_rows, x_proj)
    grad_x, of_weight, of_bias = conv.backward(
        found.u, x, conv_weight, conv_bias, path, since, True, grad_x=halves[0] if alone else None
    )
    if not alone:
        assert found.z is not None
        for half, grads in zip(halves, (grad_x, found.z), strict=True):
            half[0] = grads.sum(0)
    return grad_xz, of_weight, of_bias, of_x_proj, of_dt_proj, found.bias, found.A, found.D, of_out_proj


def _flops(
    xz: Any, conv_weight: Any, conv_bias: Any, x_proj: Any, dt_proj: Any, dt_bias: Any, A: Any, D: Any, out_proj: Any,
    *_: Any,
) -> int:  # fmt: skip
    rows = (A[0], *xz[:2], A[1])
    projections = 2 * math.prod(map(int, rows)) * int(x_proj[1] + dt_proj[2])
    projections += 0 if out_proj is None else 2 * math.prod(map(int, (*xz[:2], *out_proj)))
    return projections + causal_conv.flops(rows, conv_weight) + selective_scan.flops(rows, rows, A)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], output[2], *inputs[:-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *found, of_out_proj = _backward(grad, *ctx.saved_tensors)
    return (*found, None if ctx.saved_tensors[10] is None else of_out_proj, None, None, None)


ARGUMENTS = (
    "Tensor xz, Tensor conv_weight, Tensor conv_bias, Tensor x_proj, Tensor dt_proj, Tensor dt_bias, Tensor A, "
    "Tensor D, Tensor? out_proj, Tensor? path, Tensor? since"
)
_forward = define(
    "mamba_inner",
    f"({ARGUMENTS}, bool save) -> (Tensor, Tensor, Tensor)",
    _run,
    _shapes,
    _flops,
    keep=_keep,
    differentiate=_differentiate,
)
_backward = define(
    "mamba_inner_backward",
    f"(Tensor grad, Tensor projected, Tensor saved, {ARGUMENTS}) -> ({', '.join(['Tensor'] * 9)})",
    _run_backward,
    lambda grad, projected, saved, *inputs: tuple(
        inputs[6].new_empty(0) if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor in inputs[:9]
    ),
    lambda grad, projected, saved, *arguments: 2 * _flops(*arguments),
)
