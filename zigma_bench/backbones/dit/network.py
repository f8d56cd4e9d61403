"""DiT: adaLN-Zero blocks of softmax attention, the control whose tokens have no order.

Source: arXiv 2212.09748 and facebookresearch/DiT (models.py). It is trained here on the velocity of the linear path, as
SiT is. Differences from the published network: time enters as 1000 t with t in [0, 1]; any H x W that the patch
divides; a label is dropped by whoever gives it (as the last label), not inside; the learned sigma is an output of
`with_sigma` alone, for a velocity has none.

B batch, C channels, H x W pixels, L tokens, D width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zigma_bench.backbones.dit.facts import DitOptions
from zigma_bench.layers.attention import Attention, Mlp
from zigma_bench.layers.conditioning import make_condition, refuse_condition
from zigma_bench.layers.embed import PatchEmbed, Positions, TimeEmbed, ZeroLinear, check_images, unpatchify
from zigma_bench.layers.stack import Stack
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

NORM_EPS = 1e-6


class Block(nn.Module):
    """x + gate * attention(mod(x)), then x + gate * mlp(mod(x)); the gates start at zero (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.modulation = ZeroLinear(width, 6 * width)
        self.attention, self.mlp = Attention(width, heads), Mlp(width, ratio)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        six = self.modulation(nn.functional.silu(c))[:, None].chunk(6, dim=-1)  # [B, 1, D] each
        x = x + six[2] * self.attention(modulated(x, six[0], six[1]))
        return x + six[5] * self.mlp(modulated(x, six[3], six[4]))  # type: ignore[no-any-return]


class Dit(nn.Module):
    """x [B, C, H, W] and t [B] in [0, 1], with labels int64 [B] if it has classes -> the velocity [B, C, H, W].

    The routes are not used. With `learn_sigma` the head has 2 C channels, of which the velocity is the first half.
    """

    time_scale = 1000.0  # what t is multiplied by before its sinusoids

    def __init__(
        self, options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.channels = grid, options.patch, channels
        self.checkpointing = options.gradient_checkpointing
        self.patch_embed = PatchEmbed(channels, options.width, options.patch)
        self.positions = Positions("sincos", grid, options.width)
        self.time_embed = TimeEmbed(options.width, scale=self.time_scale)
        self.condition = make_condition(options, options.width)
        self.blocks = Stack(Block(options.width, options.head_count, options.mlp_ratio) for _ in range(options.depth))
        self.final_modulation = ZeroLinear(options.width, 2 * options.width)
        self.head = ZeroLinear(options.width, options.patch**2 * channels * (2 if options.learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.with_sigma(x, t, y)[:, : self.channels]

    def with_sigma(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """All that the head gives: [B, 2 C, H, W] with a learned sigma, else [B, C, H, W]."""
        check_images(x, t, grid=self.grid, channels=self.channels, patch=self.patch)
        c = self._conditioned(t, y)  # [B, D]
        x = self.positions(self.patch_embed(x))  # [B, L, D]
        (x,) = self.blocks.through((x,), (c,), checkpointing=self.checkpointing)
        shift, scale = self.final_modulation(nn.functional.silu(c))[:, None].chunk(2, dim=-1)
        return unpatchify(self.head(modulated(x, shift, scale)), self.grid, self.patch)

    def _conditioned(self, t: Tensor, y: Tensor | None) -> Tensor:
        c: Tensor = self.time_embed(t)
        if self.condition is None:
            refuse_condition(y)
            return c
        return c + self.condition(y, len(t))  # type: ignore[no-any-return]


class Sit(Dit):
    """x [B, C, H, W] and t [B] in [0, 1], with labels int64 [B] if it has classes -> the velocity [B, C, H, W].

    Source: arXiv 2401.08740 and willisma/SiT (models.py): DiT's network trained on the velocity of an interpolant (the
    paper's `Linear` is the probability path used here). It differs from `dit` in the time that it gets: t in [0, 1]
    itself, not 1000 t. The published network has a head for a sigma (`learn_sigma: true`) and discards its second half,
    as happens here. The differences in the size of images and in who drops labels are those of `dit`.
    """

    time_scale = 1.0


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then scaled and shifted by the condition."""
    return nn.functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift
