"""How the outputs of a layer's paths become one: y_1 .. y_K [B, L, E] -> [B, L, E].

Source: gate, after RSMamba (KyanChen/RSMamba `mmpretrain/rsmamba/models/models.py`), which weighs the paths behind
out_proj and without a bias; channel attention, MaIR's sequence shuffle attention (XLearning-SCU/2025-CVPR-MaIR). Both
start as the plain mean and the plain sum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw


class Sum(nn.Module):
    """The sum over the paths, or the mean."""

    def __init__(self, *, mean: bool = False) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, walks: Sequence[Tensor]) -> Tensor:
        y = functools.reduce(torch.add, walks)  # not torch.sum, which autocast takes to float32 on a GPU
        return y / len(walks) if self.mean else y


class Concat(nn.Module):
    """Channel groups side by side: K of [B, L, E / K] -> [B, L, E]."""

    def forward(self, walks: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(walks), dim=-1)


class Gate(nn.Module):
    """Weights of a sample, one a path: softmax of a linear map of all paths' means over the tokens."""

    def __init__(self, paths: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(paths, paths * channels))
        self.bias = nn.Parameter(torch.empty(paths))

    def init_parameters(self, draw: Draw) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, walks: Sequence[Tensor]) -> Tensor:
        means = torch.cat([y.mean(1) for y in walks], dim=-1)  # [B, K E]
        weights = nn.functional.linear(means, self.weight, self.bias).softmax(-1).to(walks[0].dtype)  # [B, K]
        return functools.reduce(
            torch.add, (y * w[:, None, None] for y, w in zip(walks, weights.unbind(1), strict=True))
        )


class ChannelAttention(nn.Module):
    """Weights of a sample, one a path and channel: 2 sigmoid of a map, for each channel, of its K means."""

    def __init__(self, paths: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, paths, paths))
        self.bias = nn.Parameter(torch.empty(channels, paths))

    def init_parameters(self, draw: Draw) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, walks: Sequence[Tensor]) -> Tensor:
        means = torch.stack([y.mean(1) for y in walks], dim=-1)  # [B, E, K]
        weights = torch.einsum("bej,ekj->bek", means, self.weight.to(means.dtype)) + self.bias  # [B, E, K]
        weights = (2 * torch.sigmoid(weights)).to(walks[0].dtype)
        weighed = (y * w[:, None] for y, w in zip(walks, weights.unbind(-1), strict=True))
        return functools.reduce(torch.add, weighed)


def make_merge(name: str, paths: int, channels: int) -> nn.Module:
    """The module of a route's merge; a cascade sums inside a stage, and a scatter's parts are put back by the mixer."""
    if name in ("sum", "scatter", "cascade"):
        return Sum()
    if name == "mean":
        return Sum(mean=True)
    if name == "concat":
        return Concat()
    if name == "gate":
        return Gate(paths, channels)
    assert name == "channel-attention", name
    return ChannelAttention(paths, channels)
