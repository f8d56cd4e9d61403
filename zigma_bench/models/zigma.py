"""ZigMa: a DiT-style stack of Mamba mixers, each layer reading the tokens along another path.

Source: arXiv 2403.13802 and CompVis/zigma (model_zigma.py), whose behaviour is the default, quirks included: the skip
inside a block adds the normalised stream, r' = r + RMSNorm(r) + gate * mixer(...); `residual: textbook` is the usual
pre-norm r' = r + gate * mixer(...). Differences from the published network: any H x W, and no text or class yet.

B batch, C channels, H x W pixels, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zigma_bench.grid import Grid
from zigma_bench.models.embed import DropPath, PatchEmbed, Positions, TimeEmbed, ZeroLinear, unpatchify
from zigma_bench.models.mixers import make_mixer
from zigma_bench.models.options import ZigmaOptions
from zigma_bench.ops.modulated_norm import modulated_norm
from zigma_bench.scans.route import Route

NORM_EPS, FINAL_EPS = 1e-5, 1e-6


class Block(nn.Module):
    """One layer: (x, r) and a condition c [B, D] -> (x, r), all [B, L, D].

    The residual r stays in float32; x, which the next layer adds to it, has the mixer's dtype, as upstream.
    """

    def __init__(self, width: int, mixer: nn.Module, *, drop_path: float, residual: str, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.modulation = ZeroLinear(width, 3 * width)
        self.mixer, self.drop_path, self.residual = mixer, DropPath(drop_path), residual

    def forward(self, x: Tensor, r: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = self.modulation(nn.functional.silu(c)).chunk(3, dim=-1)  # [B, D] each
        before, added = (x, None) if r is None else (r, self.drop_path(x))
        r, n, modulated = modulated_norm(
            before, added, self.norm.weight, shift, scale, eps=NORM_EPS, backend=self.backend
        )
        branch = self.mixer(modulated)
        gate = gate[:, None].to(branch.dtype)
        return (torch.addcmul(n.to(branch.dtype), gate, branch) if self.residual == "official" else gate * branch), r


class Zigma(nn.Module):
    """x [B, C, H, W] and t [B] in [0, 1] -> the velocity [B, C, H, W]."""

    def __init__(
        self, options: ZigmaOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str
    ) -> None:
        super().__init__()
        self.grid, self.patch = grid, options.patch
        self.patch_embed = PatchEmbed(channels, options.width, options.patch)
        self.positions = Positions(options.positions, grid, options.width)
        self.time_embed = TimeEmbed(options.width)
        rates = [0.0, *torch.linspace(0, options.drop_path, options.depth).tolist()]  # official: shifted by one
        self.blocks = nn.ModuleList(
            Block(
                options.width,
                make_mixer(options, grid=grid, route=route, backend=backend),
                drop_path=rate,
                residual=options.residual,
                backend=backend,
            )
            for route, rate in zip(routes, rates, strict=False)
        )
        self.final_drop = DropPath(options.drop_path)
        self.final_norm = nn.RMSNorm(options.width, eps=NORM_EPS)
        self.head = nn.Linear(options.width, options.patch**2 * channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.positions(self.patch_embed(x))  # [B, L, D]
        c = self.time_embed(t)  # [B, D]
        r: Tensor | None = None
        for block in self.blocks:
            x, r = block(x, r, c)
        x = self.final_norm(self.final_drop(x).float() + r)
        x = nn.functional.layer_norm(x, x.shape[-1:], eps=FINAL_EPS)
        return unpatchify(self.head(x), self.grid, self.patch)
