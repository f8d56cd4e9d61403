"""A depthwise convolution on the grid, so that a token sees its grid neighbours for any scan order.

Sources: hustvl/DiG (models_dig.py), whose 3 x 3 convolution is initialized to the identity; MzeroMiko/VMamba (SS2D),
whose 3 x 3 convolution has PyTorch's initialization. B batch, L = T*h*w tokens, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw, uniform_
from zigma_bench.scans.grid import Grid


class GridConv(nn.Module):
    """Depthwise k x k convolution per frame with zero padding, x [B, L, D] -> [B, L, D]; k = `size` is odd.

    `init`: the `identity`, or `uniform` in +-1/k (PyTorch's initialization, which is also Mamba's).
    """

    def __init__(
        self, width: int, grid: Grid, size: int = 3, *, init: Literal["identity", "uniform"] = "identity"
    ) -> None:
        super().__init__()
        assert size % 2 == 1, size
        self.grid, self.size, self.init = grid, size, init
        self.weight = nn.Parameter(torch.empty(width, 1, size, size))
        self.bias = nn.Parameter(torch.empty(width))

    @torch.no_grad()
    def init_parameters(self, draw: Draw) -> None:
        """Initialize as the option `init` says."""
        if self.init == "uniform":
            uniform_(self.weight, 1 / self.size, draw("weight"))
            uniform_(self.bias, 1 / self.size, draw("bias"))
            return
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.weight[:, :, self.size // 2, self.size // 2] = 1

    def forward(self, x: Tensor) -> Tensor:
        B, _, D = x.shape
        frames, height, width = self.grid.frames, self.grid.height, self.grid.width
        image = x.reshape(B * frames, height, width, D).permute(0, 3, 1, 2)
        image = nn.functional.conv2d(image, self.weight, self.bias, padding=self.size // 2, groups=D)
        return image.permute(0, 2, 3, 1).reshape(x.shape)
