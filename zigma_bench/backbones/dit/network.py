"""DiT: adaLN-Zero blocks of softmax attention, the control without a token order.

Source: arXiv 2212.09748 and facebookresearch/DiT (models.py). By default it is trained on the velocity of the linear
path, like SiT. Differences from the published network: the time input is 1000 t with t in [0, 1]; H and W may be any
multiples of the patch size; the caller drops labels (by passing the last label), not the network; only `with_sigma`
returns the learned sigma, because a velocity has none.

B batch, C channels, H x W pixels, L tokens, D width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zigma_bench.backbones.dit.facts import DitOptions
from zigma_bench.layers.attention import Attention, Mlp
from zigma_bench.layers.conditioning import make_condition, refuse_condition
from zigma_bench.layers.embed import PatchEmbed, Positions, TimeEmbed, ZeroLinear, check_images, unpatchify
from zigma_bench.layers.stack import BlockStack
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

NORM_EPS = 1e-6


class DitBlock(nn.Module):
    """x + gate * attention(mod(x)), then x + gate * mlp(mod(x)); the gates start at zero (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.modulation = ZeroLinear(width, 6 * width)
        self.attention, self.mlp = Attention(width, heads), Mlp(width, ratio)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        six = self.modulation(nn.functional.silu(c))[:, None].chunk(6, dim=-1)  # [B, 1, D] each
        x = x + six[2] * self.attention(modulate(x, six[0], six[1]))
        return x + six[5] * self.mlp(modulate(x, six[3], six[4]))  # type: ignore[no-any-return]


class Dit(nn.Module):
    """x [B, C, H, W] and t [B] in [0, 1], with labels int64 [B] if it has classes -> the velocity [B, C, H, W].

    The routes are not used. With `learn_sigma` the head has 2 C channels; the first half is the velocity.
    """

    time_scale = 1000.0  # factor of t before the sinusoidal embedding

    def __init__(
        self, options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.channels = grid, options.patch, channels
        self.checkpointing = options.gradient_checkpointing
        self.patch_embed = PatchEmbed(channels, options.width, options.patch)
        self.positions = Positions(options.positions, grid, options.width)
        self.time_embed = TimeEmbed(options.width, scale=self.time_scale)
        self.condition = make_condition(options, options.width)
        self.blocks = BlockStack(
            DitBlock(options.width, options.head_count, options.mlp_ratio) for _ in range(options.depth)
        )
        self.final_modulation = ZeroLinear(options.width, 2 * options.width)
        self.head = ZeroLinear(options.width, options.patch**2 * channels * (2 if options.learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.with_sigma(x, t, y)[:, : self.channels]

    def with_sigma(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The full output of the head: [B, 2 C, H, W] with a learned sigma, else [B, C, H, W]."""
        check_images(x, t, grid=self.grid, channels=self.channels, patch=self.patch)
        c = self._conditioned(t, y)  # [B, D]
        x = self.positions(self.patch_embed(x))  # [B, L, D]
        (x,) = self.blocks.through((x,), (c,), checkpointing=self.checkpointing)
        shift, scale = self.final_modulation(nn.functional.silu(c))[:, None].chunk(2, dim=-1)
        return unpatchify(self.head(modulate(x, shift, scale)), self.grid, self.patch)

    def _conditioned(self, t: Tensor, y: Tensor | None) -> Tensor:
        c: Tensor = self.time_embed(t)
        if self.condition is None:
            refuse_condition(y)
            return c
        return c + self.condition(y, len(t))  # type: ignore[no-any-return]


class Sit(Dit):
    """x [B, C, H, W] and t [B] in [0, 1], with labels int64 [B] if it has classes -> the velocity [B, C, H, W].

    Source: arXiv 2401.08740 and willisma/SiT (models.py): DiT's network trained on the velocity of an interpolant (the
    paper's `Linear` is our default probability path). It differs from `dit` in its time input: t in [0, 1], not 1000 t.
    The published network has a head for a sigma (`learn_sigma: true`) and discards its second half, as we do. Image
    sizes and the dropping of labels differ from the published network as in `dit`.
    """

    time_scale = 1.0


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, scaled and shifted by the condition."""
    return nn.functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift
