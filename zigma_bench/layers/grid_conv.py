"""A depthwise convolution on the grid, so that a token sees its grid neighbours for any scan order (as in DiG).

Source: hustvl/DiG (models_dig.py), whose 3 x 3 convolution is initialized to the identity. B batch, L = T*h*w tokens,
D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw
from zigma_bench.scans.grid import Grid


class GridConv(nn.Module):
    """Depthwise k x k convolution per frame with zero padding, x [B, L, D] -> [B, L, D]; k = `size` is odd."""

    def __init__(self, width: int, grid: Grid, size: int = 3) -> None:
        super().__init__()
        assert size % 2 == 1, size
        self.grid, self.size = grid, size
        self.weight = nn.Parameter(torch.empty(width, 1, size, size))
        self.bias = nn.Parameter(torch.empty(width))

    @torch.no_grad()
    def init_parameters(self, draw: Draw) -> None:
        """Initialize to the identity."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.weight[:, :, self.size // 2, self.size // 2] = 1

    def forward(self, x: Tensor) -> Tensor:
        B, _, D = x.shape
        frames, height, width = self.grid.frames, self.grid.height, self.grid.width
        image = x.reshape(B * frames, height, width, D).permute(0, 3, 1, 2)
        image = nn.functional.conv2d(image, self.weight, self.bias, padding=self.size // 2, groups=D)
        return image.permute(0, 2, 3, 1).reshape(x.shape)
