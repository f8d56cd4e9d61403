"""The norms of an adaLN block, with the additions and modulations around them. Tokens are not mixed.

Source: RMSNorm (arXiv 1910.07467, equation 4) and adaLN (arXiv 2212.09748, figure 3). `modulated_norm` adds the
residual as mamba-ssm's Block does (fused_add_norm); `residual_norm` also applies the gate of the previous layer and
ZigMa's skip inside a block (CompVis/zigma, model_zigma.py), which adds the normalized stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zigma_bench.ops.backends import backend_named, implementation_of

if TYPE_CHECKING:
    from torch import Tensor, dtype


@dataclass(frozen=True)
class ModulatedNormArguments:
    """The arguments of `modulated_norm`, all tensors float32."""

    r: Tensor
    x: Tensor | None
    weight: Tensor
    shift: Tensor
    scale: Tensor
    eps: float


@dataclass(frozen=True)
class ResidualNormArguments:
    """The arguments of `residual_norm`."""

    r: Tensor
    y: Tensor | None
    gate: Tensor | None
    skip: Tensor | None
    factor: Tensor | None
    weight: Tensor
    shift: Tensor
    scale: Tensor
    projection: Tensor | None
    eps: float
    dtype: dtype


def modulated_norm(
    r: Tensor, x: Tensor | None, weight: Tensor, shift: Tensor, scale: Tensor, *, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """r' = r + x; n = weight r' / rms(r'); m = (1 + scale) n + shift: returns r', n and m, all [B, L, D] and float32.

    r, x [B, L, D]; without x, r' = r. weight [D]; shift, scale [B, D]. rms(r) = sqrt(mean(r^2) + eps) over D. The
    backend `cpu` computes it in C++ in one pass; the others use PyTorch's operators, which are also one pass if they
    are compiled on a GPU (`zigma_bench.layers.speed`).
    """
    arguments = ModulatedNormArguments(
        r.float(), None if x is None else x.float(), weight.float(), shift.float(), scale.float(), eps
    )
    chosen = implementation_of("modulated_norm", backend_named(backend), r.device.type)
    outputs: tuple[Tensor, Tensor, Tensor] = chosen.apply(arguments)
    return outputs


def residual_norm(
    r: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    skip: Tensor | None,
    factor: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    scale: Tensor,
    projection: Tensor | None,
    *,
    eps: float,
    dtype: dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """r' = r + factor (norm(r) skip + gate y) and m = (1 + scale) norm(r') weight + shift: returns r' and projection m.

    norm(r) = r / sqrt(mean(r^2) + eps) over D. r and r' [B, L, D] are float32. Optional: the mixer's output y [B, L, D]
    and gate [B, D] (without them r' = r); skip [D] (without it norm(r) is not added); factor [B] of DropPath (default
    1); projection [F, D] (without it m is returned). weight [D]; shift, scale [B, D]. m and the product have `dtype`.
    On a GPU one Triton kernel reads each row once, forward and backward; the backend `torch` uses PyTorch's operators.
    """
    arguments = ResidualNormArguments(r, y, gate, skip, factor, weight, shift, scale, projection, eps, dtype)
    chosen = implementation_of("residual_norm", backend_named(backend), r.device.type)
    outputs: tuple[Tensor, Tensor] = chosen.apply(arguments)
    return outputs
