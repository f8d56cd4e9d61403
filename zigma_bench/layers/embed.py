"""Patch embedding, position and time embeddings, and their inverse at the end of a network; drop-path.

B batch, T frames of a clip, C channels, H x W pixels, h x w tokens, L = (T*)h*w, D width, p patch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zigma_bench.errors import UsageError
from zigma_bench.layers.init import Draw, normal_, xavier_
from zigma_bench.layers.options import PositionKind
from zigma_bench.scans.grid import Grid


class PatchEmbed(nn.Module):
    """Maps each patch of an image to a token: [B, C, H, W] -> [B, L, D], in row-major order (ViT)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(width, channels * patch * patch))
        self.bias = nn.Parameter(torch.empty(width))

    def init_parameters(self, draw: Draw) -> None:
        xavier_(self.weight, draw("weight"))
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(patchify(x, self.patch), self.weight, self.bias)


def check_images(x: Tensor, t: Tensor, *, grid: Grid, channels: int, patch: int) -> None:
    """UsageError unless x and t have the shapes of a network on this grid."""
    image = (channels, grid.height * patch, grid.width * patch)
    shape = (grid.frames, *image) if grid.video else image
    if tuple(x.shape[1:]) != shape or not x.is_floating_point():
        raise UsageError(
            "the network is built for images of another shape",
            expected=f"floating-point x [B, {', '.join(map(str, shape))}]",
            got=f"{x.dtype} {list(x.shape)}",
            do=f"build it for the grid of these images with patches of {patch} x {patch}",
        )
    if tuple(t.shape) != (len(x),):
        raise UsageError("t needs one time per image", expected=f"t [{len(x)}]", got=list(t.shape))


def patchify(x: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, L, C*p*p]; the values of a token are in the order (channel, row, column).

    The tokens of a clip [B, T, C, H, W] are ordered frame by frame.
    """
    if x.ndim == 5:
        return patchify(x.flatten(0, 1), patch).reshape(len(x), -1, x.shape[2] * patch**2)
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // patch, patch, W // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, (H // patch) * (W // patch), C * patch * patch)


def unpatchify(x: Tensor, grid: Grid, patch: int) -> Tensor:
    """[B, L, p*p*C] -> [B, C, H, W]; the values of a token are in the order (row, column, channel) (DiT).

    The result is [B, T, C, H, W] for a grid of several frames.
    """
    if grid.video:
        frames = x.reshape(len(x) * grid.frames, -1, x.shape[-1])
        images = unpatchify(frames, Grid(grid.height, grid.width), patch)
        return images.reshape(len(x), grid.frames, *images.shape[1:])
    B, _, values = x.shape
    C = values // (patch * patch)
    x = x.reshape(B, grid.height, grid.width, patch, patch, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, C, grid.height * patch, grid.width * patch)


class TimeEmbed(nn.Module):
    """Time in [0, 1] -> [B, D]: 256 sinusoids of `scale` * t, then two linear layers (DiT's TimestepEmbedder)."""

    def __init__(self, width: int, frequencies: int = 256, scale: float = 1000) -> None:
        super().__init__()
        self.frequencies, self.scale = frequencies, scale
        self.hidden = TimeLinear(frequencies, width)
        self.out = TimeLinear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        waves = sinusoids(self.scale * t.float(), self.frequencies)
        return self.out(nn.functional.silu(self.hidden(waves)))  # type: ignore[no-any-return]


def sinusoids(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding of t [B]: [cos | sin] at rates 10000^(-k / (channels / 2)), float32 [B, channels]."""
    half = channels // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeLinear(nn.Linear):
    """A linear layer with N(0, 0.02) weights and zero bias at initialization."""

    def init_parameters(self, draw: Draw) -> None:
        normal_(self.weight, 0.02, draw("weight"))
        nn.init.zeros_(self.bias)


class ZeroLinear(nn.Linear):
    """A linear layer initialized to zero (adaLN-Zero)."""

    def init_parameters(self, draw: Draw) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Positions(nn.Module):
    """Adds a position embedding to the tokens: none, fixed 2-D sin-cos, or learned with zero initialization."""

    def __init__(self, kind: PositionKind, grid: Grid, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(1, grid.tokens, width))
        elif kind == "sincos":
            self.register_buffer("table", sincos_2d(grid, width)[None], persistent=False)

    def init_parameters(self, draw: Draw) -> None:
        if self.kind == "learned":
            nn.init.zeros_(self.table)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.kind == "none" else x + self.table


def sincos_2d(grid: Grid, width: int) -> Tensor:
    """Fixed position embedding [L, D]. The first half of the channels encodes the column, the second half the row; each
    half is [sin | cos] at rates 10000^(-k/(D/4)) (MAE's util/pos_embed.py, which DiT and ZigMa use)."""
    rates = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(grid.height), torch.arange(grid.width), indexing="ij")

    def waves(position: Tensor) -> Tensor:
        angles = position.reshape(-1, 1).double() * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    return torch.cat([waves(columns), waves(rows)], dim=1).float()


class DropPath(nn.Module):
    """Drop-path: zeroes a whole branch for random samples during training, and scales the others by 1/(1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        return x * self._keep(x).view(-1, *[1] * (x.ndim - 1)) / (1 - self.rate)

    def factors(self, x: Tensor) -> Tensor | None:
        """The factor of each sample of x [B]; None if no sample can be dropped."""
        if not self.training or self.rate == 0:
            return None
        return self._keep(x) / (1 - self.rate)

    def _keep(self, x: Tensor) -> Tensor:
        return torch.rand(x.shape[0], device=x.device) >= self.rate
