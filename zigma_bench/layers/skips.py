"""Long skips: what an early block made, handed to the late block that mirrors it (U-ViT, DiS, DiM).

Both streams are in raster order, so a skip joins the same token whatever order either block read them in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LongSkip(nn.Module):
    """The stream x [B, L, D] and an early one [B, L, D] side by side, through a linear layer -> [B, L, D].

    `linear` makes the layer, such as one that starts as the backbone's others do.
    """

    def __init__(self, width: int, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.linear = linear(2 * width, width)

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        return self.linear(torch.cat((x, early), dim=-1))  # type: ignore[no-any-return]
