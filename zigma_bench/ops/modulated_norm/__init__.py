"""What stands before a mixer in an adaLN block: the residual grows, is normalised, and is scaled and shifted.

Source: RMSNorm (arXiv 1910.07467, equation 4) and adaLN (arXiv 2212.09748, figure 3), added up as mamba-ssm's Block
does (fused_add_norm). Tokens are not mixed: it knows no order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def modulated_norm(
    r: Tensor, x: Tensor | None, weight: Tensor, shift: Tensor, scale: Tensor, *, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """r' = r + x; n = weight r' / rms(r'); m = (1 + scale) n + shift: gives r', n and m, all [B, L, D] and float32.

    r, x [B, L, D], without x nothing is added; weight [D]; shift, scale [B, D]. rms(r) = sqrt(mean(r^2) + eps) over D.
    The backend `cpu` computes it in C++ in one pass; the others leave it to PyTorch (compiled on a card, see
    `zigma_bench.layers.speed`, it is one pass too).
    """
    r, weight, shift, scale = r.float(), weight.float(), shift.float(), scale.float()
    x = None if x is None else x.float()
    if backend == "cpu":
        from zigma_bench.ops.modulated_norm.cpu import norm
    else:
        from zigma_bench.ops.modulated_norm.naive import norm
    return norm(r, x, weight, shift, scale, eps)
