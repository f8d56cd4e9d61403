"""Softmax self-attention, cross-attention to text tokens, and the MLP.

B batch, L tokens, S text tokens, D width, h heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw, normal_, xavier_

CROSS_HEADS, CROSS_HEAD_DIM = 8, 64


class XavierLinear(nn.Linear):
    """A linear layer with Xavier-uniform weights and zero bias at initialization (DiT)."""

    def init_parameters(self, draw: Draw) -> None:
        xavier_(self.weight, draw("weight"))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class NormalLinear(nn.Linear):
    """A linear layer with N(0, 0.02) weights and zero bias at initialization.

    U-ViT uses it with truncation at 100 standard deviations, which has no effect.
    """

    def init_parameters(self, draw: Draw) -> None:
        normal_(self.weight, 0.02, draw("weight"))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Attention(nn.Module):
    """Multi-head self-attention without a mask, [B, L, D] -> [B, L, D]. It commutes with permutations of the tokens.

    `linear`: the class of the projections. `qkv_bias`: whether q, k and v have a bias.
    """

    def __init__(
        self, width: int, heads: int, *, linear: type[nn.Linear] = XavierLinear, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width, bias=qkv_bias)
        self.out = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).reshape(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # [B, h, L, D/h]
        y: Tensor = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(B, L, D))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Cross-attention of x [B, L, D] to text tokens [B, S, D]: 8 heads of 64, bias only in `out` (LDM, ZigMa)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = CROSS_HEADS * CROSS_HEAD_DIM
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` bool [B, S]: True for a visible text token."""
        q, k, v = (
            torch.unflatten(rows, -1, (CROSS_HEADS, CROSS_HEAD_DIM)).transpose(1, 2)  # [B, h, L or S, 64]
            for rows in (self.q(x), self.k(text), self.v(text))
        )
        visible = None if mask is None else mask[:, None, None]
        y: Tensor = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with GELU in between, for each token. `approximate`: that of GELU (DiT: tanh, U-ViT: none)."""

    def __init__(
        self, width: int, ratio: int, *, linear: type[nn.Linear] = XavierLinear, approximate: str = "tanh"
    ) -> None:
        super().__init__()
        self.hidden, self.out = linear(width, ratio * width), linear(ratio * width, width)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.gelu(self.hidden(x), approximate=self.approximate))  # type: ignore[no-any-return]
