"""The inner part of a Mamba mixer as one operator on an NVIDIA card: convolution, projections, scan and gate.

`zigma_bench.models.mixer.Branch` computes the same with the operators one by one. As one it keeps less for the backward
(the projections of u and some states; u and delta are computed again, as in mamba-ssm's mamba_inner_fn) and writes the
two halves of the gradient of xz into one tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.arguments import dense_rows
from zigma_bench.ops.causal_conv import fused as causal_conv
from zigma_bench.ops.causal_conv import launch as conv
from zigma_bench.ops.cuda.library import define
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
) -> Tensor:
    """xz [B, L, 2E] -> [B, L, E]: u = causal_conv(x); dt, B, C = x_proj u; delta = dt_proj dt; y = selective_scan(...).

    conv_weight [E, W]; x_proj [R + 2N, E]; dt_proj [E, R]; A [E, N]; conv_bias, dt_bias, D [E]. The projections are
    computed in xz's dtype, the rest in float32. path and since as in `selective_scan`.
    """
    selective_scan.check_states(A.shape[1])
    parameters = (conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D)
    save = torch.is_grad_enabled() and (xz.requires_grad or any(tensor.requires_grad for tensor in parameters))
    y: Tensor = _forward(
        xz, conv_weight.float(), conv_bias.float(), x_proj.to(xz.dtype), dt_proj.to(xz.dtype), dt_bias.float(),
        A.float(), D.float(), path, since, save,
    )[0]  # fmt: skip
    return y


def _inputs(
    z: Tensor, u: Tensor, projected: Tensor, dt_proj: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor,
    path: Tensor | None, since: Tensor | None,
) -> Inputs:  # fmt: skip
    rank, states = dt_proj.shape[1], A.shape[1]
    delta = projected[..., :rank] @ dt_proj.t()
    B, C = projected[..., rank : rank + states], projected[..., rank + states :]
    return Inputs(u, delta, A.contiguous(), B, C, D.contiguous(), z, dt_bias.contiguous(), True, path, since)


def _run(
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, A: Tensor,
    D: Tensor, path: Tensor | None, since: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x, z = dense_rows(xz).chunk(2, dim=-1)
    u = conv.forward(x, conv_weight.contiguous(), conv_bias.contiguous(), path, since, True)
    projected = u @ x_proj.t()
    given = _inputs(z, u, projected, dt_proj, dt_bias, A, D, path, since)
    y, saved = launch.forward(given, save=save)
    return y, projected, saved


def _shapes(
    xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, A: Tensor,
    D: Tensor, path: Tensor | None, since: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    batch, length, _ = xz.shape
    channels, states = A.shape
    shape = (batch, -(-length // SAVE), channels, states) if save else (0,)
    return xz.new_empty(batch, length, channels), xz.new_empty(batch, length, x_proj.shape[0]), A.new_empty(shape)


def _run_backward(
    grad: Tensor, projected: Tensor, saved: Tensor, xz: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor,
    dt_proj: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, path: Tensor | None, since: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    x, z = dense_rows(xz).chunk(2, dim=-1)
    conv_weight, conv_bias = conv_weight.contiguous(), conv_bias.contiguous()
    rank = dt_proj.shape[1]
    u = conv.forward(x, conv_weight, conv_bias, path, since, True)
    given = _inputs(z, u, projected, dt_proj, dt_bias, A, D, path, since)
    grad_xz = torch.empty_like(xz, memory_format=torch.contiguous_format)
    grad_x, grad_z = grad_xz.chunk(2, dim=-1)
    found = launch.backward(given, dense_rows(grad), saved, grad_z=grad_z)
    grad_projected = torch.empty_like(projected)
    grad_projected[..., rank:] = found.BC.flatten(2)
    rows, grad_rows, grad_delta, grad_u = (
        tensor.flatten(0, 1) for tensor in (projected, grad_projected, found.delta, found.u)
    )
    grad_rows[:, :rank] = grad_delta @ dt_proj
    grad_u.addmm_(grad_rows, x_proj)
    _, of_weight, of_bias = conv.backward(found.u, x, conv_weight, conv_bias, path, since, True, grad_x=grad_x)
    of_x_proj, of_dt_proj = grad_rows.t() @ u.flatten(0, 1), grad_delta.t() @ rows[:, :rank]
    return grad_xz, of_weight, of_bias, of_x_proj, of_dt_proj, found.bias, found.A, found.D


def _flops(xz: Any, conv_weight: Any, conv_bias: Any, x_proj: Any, dt_proj: Any, dt_bias: Any, A: Any, *_: Any) -> int:
    batch, length, _ = xz
    rows = (batch, length, A[0])
    projections = 2 * batch * length * A[0] * (x_proj[0] + dt_proj[1])
    return int(projections) + causal_conv.flops(rows, conv_weight) + selective_scan.flops(rows, rows, A)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], output[2], *inputs[:-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors), None, None, None)


ARGUMENTS = (
    "Tensor xz, Tensor conv_weight, Tensor conv_bias, Tensor x_proj, Tensor dt_proj, Tensor dt_bias, Tensor A, "
    "Tensor D, Tensor? path, Tensor? since"
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
    f"(Tensor grad, Tensor projected, Tensor saved, {ARGUMENTS}) -> ({', '.join(['Tensor'] * 8)})",
    _run_backward,
    lambda grad, projected, saved, *inputs: tuple(
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs[:8]
    ),
    lambda grad, projected, saved, *arguments: 2 * _flops(*arguments),
)
