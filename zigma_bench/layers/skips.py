"""Long skips from an early block to the late block that mirrors it (U-ViT, DiS, DiM).

Both streams are in raster order, so a skip merges values of the same token for any scan order of the two blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LongSkip(nn.Module):
    """Concatenates the stream x [B, L, D] and an early stream [B, L, D], then a linear layer -> [B, L, D].

    `linear`: the class of the layer, for example one with the backbone's initialization.
    """

    def __init__(self, width: int, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.linear = linear(2 * width, width)

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        return self.linear(torch.cat((x, early), dim=-1))  # type: ignore[no-any-return]
