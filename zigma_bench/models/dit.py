"""DiT: adaLN-Zero blocks of softmax attention, the control whose tokens have no order.

Source: arXiv 2212.09748 and facebookresearch/DiT (models.py). It is trained here on the velocity of the linear path, as
SiT is. Differences from the published network: time enters as 1000 t with t in [0, 1], no class, no learned sigma, and
any H x W.

B batch, C channels, H x W pixels, L tokens, D width, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zigma_bench.grid import Grid
from zigma_bench.models.embed import PatchEmbed, Positions, TimeEmbed, ZeroLinear, unpatchify
from zigma_bench.models.init import Draw, xavier_
from zigma_bench.models.options import DitOptions
from zigma_bench.scans.route import Route

NORM_EPS = 1e-6


class XavierLinear(nn.Linear):
    """A linear layer that starts at Xavier's uniform weights and a zero bias."""

    def init_parameters(self, draw: Draw) -> None:
        xavier_(self.weight, draw("weight"))
        nn.init.zeros_(self.bias)


class Attention(nn.Module):
    """Multi-head self-attention, [B, L, D] -> [B, L, D]; no mask, so a permutation of tokens commutes with it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = XavierLinear(width, 3 * width)
        self.out = XavierLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).reshape(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # [B, h, L, D/h]
        y: Tensor = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(B, L, D))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with tanh-GELU between, on each token alone."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.hidden, self.out = XavierLinear(width, ratio * width), XavierLinear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.gelu(self.hidden(x), approximate="tanh"))  # type: ignore[no-any-return]


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
    """x [B, C, H, W] and t [B] in [0, 1] -> the velocity [B, C, H, W]. The routes are not used."""

    def __init__(
        self, options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str
    ) -> None:
        super().__init__()
        self.grid, self.patch = grid, options.patch
        self.patch_embed = PatchEmbed(channels, options.width, options.patch)
        self.positions = Positions("sincos", grid, options.width)
        self.time_embed = TimeEmbed(options.width)
        self.blocks = nn.ModuleList(
            Block(options.width, options.head_count, options.mlp_ratio) for _ in range(options.depth)
        )
        self.final_modulation = ZeroLinear(options.width, 2 * options.width)
        self.head = ZeroLinear(options.width, options.patch**2 * channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.positions(self.patch_embed(x))  # [B, L, D]
        c = self.time_embed(t)  # [B, D]
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_modulation(nn.functional.silu(c))[:, None].chunk(2, dim=-1)
        return unpatchify(self.head(modulated(x, shift, scale)), self.grid, self.patch)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then scaled and shifted by the condition."""
    return nn.functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift
