"""What lies between two mixers of an adaLN stack: gate, residual, norm, modulation, and the next mixer's projection.

Source: as of `ops.modulated_norm`, with the gate of the layer before (arXiv 2212.09748, figure 3) and ZigMa's skip
inside a block (CompVis/zigma, model_zigma.py), which adds the normalised stream. Tokens are not mixed: it knows no
order. On a card one kernel reads each row once, forwards and backwards; where Triton can't launch, PyTorch's operators
do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, dtype


def residual_norm(
    r: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    before: Tensor | None,
    kept: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    scale: Tensor,
    projection: Tensor | None,
    *,
    eps: float,
    dtype: dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """r' = r + kept (norm(r) before + gate y) and m = (1 + scale) norm(r') weight + shift: gives r' and projection m.

    norm(r) = r / sqrt(mean(r^2) + eps) over D. r [B, L, D] float32, as r' is; y [B, L, D], the mixer's output, gate
    [B, D]: without them r' = r; before [D]: without it nothing normalised is added; kept [B]: 1 if absent; weight [D];
    shift, scale [B, D]; projection [F, D]: m itself if absent. m, and what is projected, has `dtype`.
    `backend`: triton, or torch.
    """
    if backend == "triton":
        from zigma_bench.ops.residual_norm.triton_norm import norm
    else:
        assert backend == "torch", backend
        from zigma_bench.ops.residual_norm.naive import norm
    return norm(r, y, gate, before, kept, weight, shift, scale, projection, eps, dtype)
