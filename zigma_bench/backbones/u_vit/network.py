"""U-ViT: a transformer in which time, condition and patches are all tokens, with long skips from early to late blocks.

Source: arXiv 2209.12152 and baofff/U-ViT (libs/uvit.py). Differences from the published network: the time input is
1000 t with t in [0, 1]; H and W may be any multiples of the patch size; the patch embedding has Xavier initialization;
text tokens come before the time token, as the class token does; the caller drops labels (by passing the last label);
the depth must be odd, as in all published sizes.

B batch, C channels, H x W pixels, L tokens of the grid, P prefix tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zigma_bench.backbones.u_vit.facts import UvitOptions
from zigma_bench.layers.attention import Attention, Mlp, NormalLinear
from zigma_bench.layers.conditioning import make_condition, refuse_condition
from zigma_bench.layers.embed import PatchEmbed, check_images, sincos_2d, sinusoids, unpatchify
from zigma_bench.layers.init import Draw, normal_
from zigma_bench.layers.options import PositionKind
from zigma_bench.layers.prefix import with_prefix, without_prefix
from zigma_bench.layers.skips import LongSkip
from zigma_bench.layers.stack import run_block
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


class UvitBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). A late block first merges the output of its early block."""

    def __init__(self, options: UvitOptions, *, late: bool) -> None:
        super().__init__()
        D, linear = options.width, NormalLinear
        self.skip = LongSkip(D, linear) if late else None
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attention = Attention(D, options.head_count, linear=linear, qkv_bias=False)
        self.mlp = Mlp(D, options.mlp_ratio, linear=linear, approximate="none")

    def forward(self, x: Tensor, early: Tensor | None) -> Tensor:
        if self.skip is not None:
            x = self.skip(x, early)
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class UvitPositions(nn.Module):
    """Adds a position to every token, [B, P + L, D] -> [B, P + L, D].

    `learned` ones (as published) include the P prefix tokens; `sincos` leaves the prefix unchanged, `none` all tokens.
    """

    def __init__(self, kind: PositionKind, prefix: int, grid: Grid, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(1, prefix + grid.tokens, width))
        elif kind == "sincos":
            table = torch.cat([torch.zeros(prefix, width), sincos_2d(grid, width)])
            self.register_buffer("table", table[None], persistent=False)

    def init_parameters(self, draw: Draw) -> None:
        if self.kind == "learned":
            normal_(self.table, 0.02, draw("table"))

    def forward(self, x: Tensor) -> Tensor:
        return x if self.kind == "none" else x + self.table


class Uvit(nn.Module):
    """x [B, C, H, W], t [B] in [0, 1], and labels int64 [B] or text features [B, S, C] -> the velocity [B, C, H, W]."""

    def __init__(
        self, options: UvitOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str
    ) -> None:
        super().__init__()
        D = self.width = options.width
        self.grid, self.patch, self.channels, self.prefix = grid, options.patch, channels, options.prefix
        self.checkpointing, half = options.gradient_checkpointing, options.depth // 2
        self.patch_embed = PatchEmbed(channels, D, options.patch)
        self.condition = make_condition(options, D, text_tokens=options.text_tokens)
        self.positions = UvitPositions(options.positions, options.prefix, grid, D)
        self.blocks = nn.ModuleList(UvitBlock(options, late=number > half) for number in range(options.depth))
        self.norm = nn.LayerNorm(D)
        self.head = NormalLinear(D, options.patch**2 * channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        check_images(x, t, grid=self.grid, channels=self.channels, patch=self.patch)
        x = self.positions(with_prefix(self._prefix(t, y), self.patch_embed(x)))  # [B, P + L, D]
        early: list[Tensor] = []
        half = len(self.blocks) // 2
        for number, block in enumerate(self.blocks):
            x = run_block(block, x, early.pop() if number > half else None, checkpointing=self.checkpointing)
            if number < half:
                early.append(x)
        x = self.head(without_prefix(self.norm(x), self.grid))
        return self.smooth(unpatchify(x, self.grid, self.patch))  # type: ignore[no-any-return]

    def _prefix(self, t: Tensor, y: Tensor | None) -> list[Tensor]:
        """The tokens of the condition, if any, followed by the time token."""
        time = sinusoids(1000 * t.float(), self.width)
        if self.condition is None:
            refuse_condition(y)
            return [time]
        tokens = self.condition(y, len(t))
        return [tokens, time]
