"""How one path of a route reads and writes the rows of the stream.

An order of all tokens is handed to the operators, which read and write rows through it. Only a path with pads or a part
of the tokens gathers its rows and puts them back. B batch, L tokens, S steps, E channels, P pads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw, normal_
from zigma_bench.scans.route import PAD, Route


class Walk(nn.Module):
    """One path of a route, as buffers: how its rows are read and written, where its state starts anew."""

    path: Tensor | None
    rows: Tensor | None
    visited: Tensor | None
    steps: Tensor | None
    since: Tensor | None
    features: Tensor | None

    def __init__(self, route: Route, number: int) -> None:
        super().__init__()
        path = torch.from_numpy(route.paths[number].copy())
        in_place = route.merge != "scatter" and route.pad_count == 0  # an order of all tokens: no gather
        rows = path.clone()
        if route.pads is not None:
            rows[path == PAD] = route.tokens + torch.from_numpy(route.pads[number].copy())  # rows of the table behind
        else:
            rows[path == PAD] = route.tokens  # the row of zeros behind
        since, ids = route.since, route.step_feature
        features = None if ids is None else torch.from_numpy(ids[number].copy())
        if features is not None and in_place:  # by row instead of by step
            features = torch.empty_like(features).scatter_(0, path, features)
        self._keep("path", path if in_place else None)
        self._keep("rows", None if in_place else rows)
        self._keep("visited", None if in_place else path[path != PAD])
        self._keep("steps", None if in_place else torch.nonzero(path != PAD)[:, 0])
        self._keep("since", None if since is None else torch.from_numpy(since[number].copy()))
        self._keep("features", features)

    def _keep(self, name: str, values: Tensor | None) -> None:
        self.register_buffer(name, values, persistent=False)

    def forward(self, branch: nn.Module, x: Tensor, z: Tensor | None, behind: Tensor | None) -> Tensor:
        """x, z [B, L, E] -> [B, L, E] along a path of all tokens; `behind` [P, E]: the rows that pads read."""
        if self.visited is None:
            y: Tensor = branch(x, z, self.path, self.since, self.features)
            return y
        y = put_back([self.part(branch, with_pads(x, behind))], x)
        return y if z is None else y * nn.functional.silu(z)

    def part(self, branch: Callable[..., Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that the path visits [V], and what it writes there [B, V, E]; rows [B, L + P, E]."""
        assert self.visited is not None and self.rows is not None and self.steps is not None
        walked = branch(rows.index_select(1, self.rows), None, None, self.since, self.features)
        return self.visited, walked.index_select(1, self.steps)


def with_pads(x: Tensor, behind: Tensor | None) -> Tensor:
    """x [B, L, E] with the rows that pads read [P, E] behind it."""
    return x if behind is None else torch.cat((x, behind.to(x.dtype).expand(len(x), -1, -1)), 1)


def put_back(parts: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """The rows [.., E] of paths that together visit every token once, each at its token: [B, L, E] for [B, L, ..]."""
    visited, rows = (torch.cat(items, dim) for items, dim in zip(zip(*parts, strict=True), (0, 1), strict=True))
    return like.new_empty(*like.shape[:2], rows.shape[-1]).index_copy(1, visited, rows.to(like.dtype))


class PadTable(nn.Module):
    """The learned rows that pads of a path read: [P, E], as the convolution's input."""

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(rows, channels))

    def init_parameters(self, draw: Draw) -> None:
        normal_(self.table, 0.02, draw("table"))
