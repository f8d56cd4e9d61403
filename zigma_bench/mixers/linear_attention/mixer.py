"""Linear attention as a mixer along a route: an order-free control with a cost that is linear in the tokens.

With a positive feature map f of queries and keys, step i reads sum_j (f(q_i) . f(k_j)) v_j / sum_j f(q_i) . f(k_j).
Both sums over j are computed once for all i (Katharopoulos et al. 2020, arXiv 2006.16236, equations 5 and 7, without
the causal mask). So the output is the same for all paths that visit every token once. As in `attention`, rows are
gathered and scattered back, a pad is a learned row of the mixer's input, and a step's vector is added to its key.

B batch, L tokens, S steps, C channels of a path, D width, h heads of c channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zigma_bench.layers.attention import XavierLinear
from zigma_bench.layers.options import head_count
from zigma_bench.mixers.along_route import GatheringBranch, RoutedBranches
from zigma_bench.mixers.attention.mixer import StepKeys
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import path_channels
from zigma_bench.mixers.learned_order import apply_order, make_order
from zigma_bench.mixers.linear_attention.facts import LinearAttentionOptions
from zigma_bench.ops.products import cast_as_products
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

EPS = 1e-6  # added to the denominator, which can be zero with ReLU


def positive_elu(x: Tensor) -> Tensor:
    """elu(x) + 1."""
    return nn.functional.elu(x) + 1


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {"elu": positive_elu, "relu": nn.functional.relu}


class LinearAttentionBranch(GatheringBranch):
    """One path's projections and linear attention: [B, S, C] -> [B, S, C]."""

    def __init__(self, channels: int, options: LinearAttentionOptions, features: int) -> None:
        super().__init__()
        self.heads, self.feature_map = head_count(channels, options.heads), FEATURE_MAPS[options.feature_map]
        self.qkv = XavierLinear(channels, 3 * channels)
        self.ids = StepKeys(features, channels) if features else None

    def mix_rows(self, x: Tensor, segment_starts: Tensor | None, features: Tensor | None) -> Tensor:
        assert segment_starts is None, "a check refuses segments"
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.ids is not None:
            assert features is not None
            k = self.ids(k, features)
        q, k, v = (self._split_heads(part) for part in (q, k, v))  # [B, h, S, c]
        q, k = (
            self.feature_map(q),
            self.feature_map(k) / k.shape[2],
        )  # means instead of sums, which float16 may not hold
        mean_kv, mean_k = k.mT @ v, k.sum(2)[..., None]  # [B, h, c, c], [B, h, c, 1]
        y = (q @ mean_kv) / (q @ mean_k.to(v.dtype) + EPS)
        return y.transpose(1, 2).flatten(2)

    def _split_heads(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, h, S, c], copied once, because each product would copy and save it again."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2).contiguous()


class LinearAttentionMixer(nn.Module):
    """x [B, L, D] -> [B, L, D] along one layer's route: a branch per path or one for all, merged before `out`."""

    def __init__(
        self, options: LinearAttentionOptions, *, block: BlockOptions, grid: Grid, route: Route, backend: str
    ) -> None:
        super().__init__()
        D = block.width
        channels = path_channels(route, D)
        self.order = make_order(route, width=D, grid=grid)

        def make_branch(number: int) -> LinearAttentionBranch:
            return LinearAttentionBranch(channels, options, route.features)

        self.routed = RoutedBranches(route, make_branch, channels=D, learned_pads=True)
        self.out = XavierLinear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        learned, x = apply_order(self.order, x)
        return self.out(self.routed(cast_as_products(x), learned))  # type: ignore[no-any-return]
