"""Sorting tokens by a learned score, with a straight-through weight that gives the score its gradient.

Source: the idea of sorting tokens by a predicted quantity before the scan, MambaIRv2 (csguoh/MambaIR); the
straight-through estimator, Bengio et al. 2013 (arXiv 1308.3432).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw
from zigma_bench.scans.grid import Grid
from zigma_bench_score_sort import ScoreSortOptions


class ScoreSort(nn.Module):
    """x [B, L, D] -> paths int64 [B, 1, L] and a weight [B, L] that is 1 with the gradient of the score."""

    place: Tensor

    def __init__(self, options: ScoreSortOptions, *, width: int, grid: Grid, layer: int, depth: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        place = options.position * torch.arange(grid.tokens) / grid.tokens
        self.register_buffer("place", place, persistent=False)

    def init_parameters(self, draw: Draw) -> None:
        """Zeros: the order starts as the raster."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        learned = (x.float() * self.weight).sum(-1)  # [B, L]
        path = (learned.detach() + self.place).argsort(dim=1, stable=True)
        return path[:, None], 1 + learned - learned.detach()
