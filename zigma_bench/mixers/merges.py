"""The merges: combine the outputs of a layer's paths, y_1 .. y_K [B, L, E] -> [B, L, E].

Source: the gate follows RSMamba (KyanChen/RSMamba `mmpretrain/rsmamba/models/models.py`), which weights the paths after
out_proj and without a bias; channel attention is MaIR's sequence shuffle attention (XLearning-SCU/2025-CVPR-MaIR). At
initialization they are the plain mean and the plain sum. `merge_facts.py` registers the merges.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw
from zigma_bench.mixers.scan_path import put_back


class SumMerge(nn.Module):
    """The sum over the paths."""

    def __init__(self, paths: int, channels: int) -> None:
        super().__init__()

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        return functools.reduce(torch.add, outputs)  # not torch.sum, which autocast computes in float32 on a GPU


class MeanMerge(SumMerge):
    """The mean over the paths."""

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        return super().forward(outputs) / len(outputs)


class ConcatMerge(nn.Module):
    """The concatenation of the channel groups: K of [B, L, E / K] -> [B, L, E]."""

    def __init__(self, paths: int, channels: int) -> None:
        super().__init__()

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(outputs), dim=-1)


class GateMerge(nn.Module):
    """A weighted sum with a weight per sample and path: the softmax of a linear map of all paths' means over tokens."""

    def __init__(self, paths: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(paths, paths * channels))
        self.bias = nn.Parameter(torch.empty(paths))

    def init_parameters(self, draw: Draw) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        means = torch.cat([y.mean(1) for y in outputs], dim=-1)  # [B, K E]
        weights = nn.functional.linear(means, self.weight, self.bias).softmax(-1).to(outputs[0].dtype)  # [B, K]
        return functools.reduce(
            torch.add, (y * w[:, None, None] for y, w in zip(outputs, weights.unbind(1), strict=True))
        )


class ChannelAttentionMerge(nn.Module):
    """A weighted sum with a weight per sample, path and channel: 2 sigmoid of a linear map of the channel's K means."""

    def __init__(self, paths: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, paths, paths))
        self.bias = nn.Parameter(torch.empty(channels, paths))

    def init_parameters(self, draw: Draw) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        means = torch.stack([y.mean(1) for y in outputs], dim=-1)  # [B, E, K]
        weights = torch.einsum("bej,ekj->bek", means, self.weight.to(means.dtype)) + self.bias  # [B, E, K]
        weights = (2 * torch.sigmoid(weights)).to(outputs[0].dtype)
        weighed = (y * w[:, None] for y, w in zip(outputs, weights.unbind(-1), strict=True))
        return functools.reduce(torch.add, weighed)


class ScatterMerge(nn.Module):
    """Writes each path's rows to its tokens: K pairs (tokens [V], rows [B, V, E]) and x [B, L, E] -> [B, L, E]."""

    def __init__(self, paths: int, channels: int) -> None:
        super().__init__()

    def forward(self, parts: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        return put_back(parts, x)
