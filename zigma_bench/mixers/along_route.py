"""Any operator along a layer's route: rows are gathered in the order of each path, worked on, and put back.

For operators that need no kernel which reads through a path, such as attention. B batch, L tokens, S steps, C channels,
K paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.mixers.learned_order import Order
from zigma_bench.mixers.merges import make_merge
from zigma_bench.mixers.walk import PadTable, Walk, put_back, with_pads
from zigma_bench.ops.causal_conv.torch_blocks import along_path
from zigma_bench.scans.route import Route


class RowOperator(nn.Module):
    """One path's operator; a leaf has `rows(x [B, S, C], since, features) -> [B, S, C]` of rows as they lie."""

    def forward(self, x: Tensor, z: None, path: Tensor | None, since: Tensor | None, features: Tensor | None) -> Tensor:
        """As a branch of a Mamba mixer; there is never a z here, for a gate acts behind the merge."""
        if path is None:
            return self.rows(x, since, features)
        ids = None if features is None else features[path]
        return along_path(lambda gathered: self.rows(gathered, since, ids), [x], path)

    def rows(self, x: Tensor, since: Tensor | None, features: Tensor | None) -> Tensor:
        """`since` [S]: the step at which each step's segment began; `features` [S]: the id of each step."""
        raise NotImplementedError


class Routed(nn.Module):
    """x [B, L, C] -> [B, L, C]: what the branches, one a path or one for all, make of the rows, merged.

    `learned_pads`: whether pads are rows of a table, for an operator that reads them.
    """

    def __init__(self, route: Route, branches: Sequence[nn.Module], *, channels: int, learned_pads: bool) -> None:
        super().__init__()
        assert len(branches) == (route.K if route.share == "separate" else 1), len(branches)
        self.merge_name, self.stages, self.paths = route.merge, route.stages, route.K
        self.walks = nn.ModuleList(Walk(route, number) for number in range(0 if route.learned else route.K))
        self.branches = nn.ModuleList(branches)
        self.merge = make_merge(route.merge, route.K, channels)
        self.pads = PadTable(route.pad_rows, channels) if route.pad_rows and learned_pads else None
        self.zeros: Tensor | None
        zeros = torch.zeros(max(route.pad_rows, 1), channels) if route.pad_count and self.pads is None else None
        self.register_buffer("zeros", zeros, persistent=False)

    def forward(self, x: Tensor, paths: Tensor | None = None) -> Tensor:
        """`paths` int64 [B, K, L]: the orders of each sample, where they are learned."""
        if paths is not None:
            return self._along_learned(x, paths)
        behind = self.zeros if self.pads is None else self.pads.table
        if self.stages is not None:
            return self._cascade(x, behind)
        if self.merge_name == "scatter":
            rows = with_pads(x, behind)
            return put_back([self._walk(k).part(self._branch(k), rows) for k in range(self.paths)], x)
        walks = [
            walk(self._branch(k), self._part(k, x), None, self._part(k, behind)) for k, walk in enumerate(self.walks)
        ]
        return self.merge(walks)  # type: ignore[no-any-return]

    def _part(self, number: int, rows: Tensor | None) -> Any:
        """The channels that a path works on: its own group of them, or all."""
        return rows if rows is None or self.merge_name != "concat" else rows.chunk(self.paths, -1)[number]

    def _branch(self, number: int) -> nn.Module:
        return self.branches[number if len(self.branches) > 1 else 0]

    def _walk(self, number: int) -> Walk:
        walk = self.walks[number]
        assert isinstance(walk, Walk)
        return walk

    def _cascade(self, x: Tensor, behind: Tensor | None) -> Tensor:
        """Stage after stage, each reading the sum that the one before it wrote."""
        assert self.stages is not None
        number = 0
        for count in self.stages:
            numbers = range(number, number + count)
            x = self.merge([self._walk(k)(self._branch(k), x, None, behind) for k in numbers])
            number += count
        return x

    def _along_learned(self, x: Tensor, paths: Tensor) -> Tensor:
        """One order a sample: rows are gathered, worked on as they then lie, and put back."""
        walks = []
        for k, path in enumerate(paths.unbind(1)):
            rows = self._part(k, x)
            y = self._branch(k)(rows.gather(1, path[..., None].expand_as(rows)), None, None, None, None)
            walks.append(y.gather(1, path.argsort(1)[..., None].expand_as(y)))
        return self.merge(walks)  # type: ignore[no-any-return]


def ordered(order: Order | None, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """The learned paths of each sample and its tokens under their weight; a fixed order leaves both alone."""
    if order is None:
        return None, x
    paths, weight = order(x)
    return paths, x if weight is None else x * weight[..., None].to(x.dtype)
