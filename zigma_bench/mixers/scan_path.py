"""How one path of a route reads and writes the rows of the stream.

A path over all tokens is passed to the operators, which read and write rows through it. A path with pads, a path over a
part of the tokens, and a learned path, which differs between samples, gather their rows and scatter them back. B batch,
L tokens, S steps, V visited tokens, E channels, P pads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zigma_bench.layers.init import Draw, normal_
from zigma_bench.scans.route import PAD, Route


class ScanPath(nn.Module):
    """One path of a route as buffers: how its rows are read and written, and where its segments start."""

    path: Tensor | None
    rows: Tensor | None
    visited: Tensor | None
    steps: Tensor | None
    segment_starts: Tensor | None
    features: Tensor | None

    def __init__(self, route: Route, number: int) -> None:
        super().__init__()
        path = torch.from_numpy(route.paths[number].copy())
        in_place = (
            not route.merge_facts.splits_tokens and route.pad_count == 0
        )  # a path over all tokens needs no gather
        rows = path.clone()
        if route.pads is not None:
            rows[path == PAD] = route.tokens + torch.from_numpy(route.pads[number].copy())  # pads come after the tokens
        else:
            rows[path == PAD] = route.tokens  # the row of zeros after the tokens
        segment_starts, ids = route.segment_starts, route.step_feature
        features = None if ids is None else torch.from_numpy(ids[number].copy())
        if features is not None and in_place:  # by row instead of by step
            features = torch.empty_like(features).scatter_(0, path, features)
        self._add_buffer("path", path if in_place else None)
        self._add_buffer("rows", None if in_place else rows)
        self._add_buffer("visited", None if in_place else path[path != PAD])
        self._add_buffer("steps", None if in_place else torch.nonzero(path != PAD)[:, 0])
        self._add_buffer(
            "segment_starts", None if segment_starts is None else torch.from_numpy(segment_starts[number].copy())
        )
        self._add_buffer("features", features)

    def _add_buffer(self, name: str, values: Tensor | None) -> None:
        self.register_buffer(name, values, persistent=False)

    def follow(self, branch: Callable[..., Tensor], x: Tensor, z: Tensor | None, pads: Tensor | None) -> Tensor:
        """x, z [B, L, E] -> [B, L, E] along a path over all tokens, gated by SiLU(z) if there is a z; pads [P, E]."""
        if self.visited is None:
            return branch(x, z, self.path, self.segment_starts, self.features)
        y = put_back([self.write_part(branch, self.read_part(with_pads(x, pads)))], x)
        return y if z is None else y * nn.functional.silu(z)

    def read_part(self, rows: Tensor) -> Tensor:
        """Gather the row of each step: rows [B, L + P, E] of the tokens and the pads -> [B, S, E]."""
        assert self.rows is not None
        return rows.index_select(1, self.rows)

    def write_part(self, branch: Callable[..., Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Run the branch on rows [B, S, E] in path order; returns visited tokens [V] and their outputs [B, V, E]."""
        assert self.visited is not None and self.steps is not None
        return self.visited, branch(rows, None, None, self.segment_starts, self.features).index_select(1, self.steps)


class SamplePath:
    """A learned path per sample [B, L]: rows are gathered, mixed in path order, and scattered back."""

    def __init__(self, path: Tensor) -> None:
        self.path = path[..., None]

    def follow(self, branch: Callable[..., Tensor], x: Tensor, z: Tensor | None, pads: Tensor | None) -> Tensor:
        """See `ScanPath.follow`; a learned path has no pads."""
        assert pads is None
        z = None if z is None else z.gather(1, self.path.expand_as(z))
        y = branch(x.gather(1, self.path.expand_as(x)), z, None, None, None)
        return y.gather(1, self.path.argsort(1).expand_as(y))


def with_pads(x: Tensor, pads: Tensor | None) -> Tensor:
    """Append the rows of pads [P, E] to x [B, L, E] -> [B, L + P, E]."""
    return x if pads is None else torch.cat((x, pads.to(x.dtype).expand(len(x), -1, -1)), 1)


def put_back(parts: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Write the rows [.., E] of paths that together visit every token once to their tokens: [B, L, E], with `like`
    [B, L, ..]."""
    visited, rows = (torch.cat(items, dim) for items, dim in zip(zip(*parts, strict=True), (0, 1), strict=True))
    return like.new_empty(*like.shape[:2], rows.shape[-1]).index_copy(1, visited, rows.to(like.dtype))


class PadTable(nn.Module):
    """The input rows of pads, [P, C]: learned, or zeros."""

    table: Tensor

    def __init__(self, rows: int, channels: int, *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.table = nn.Parameter(torch.empty(rows, channels))
        else:
            self.register_buffer("table", torch.zeros(max(rows, 1), channels), persistent=False)

    def init_parameters(self, draw: Draw) -> None:
        if isinstance(self.table, nn.Parameter):
            normal_(self.table, 0.02, draw("table"))


def make_pads(route: Route, channels: int, *, learned: bool = True) -> PadTable | None:
    """The input rows of the route's pads, or None; they are learned if `learned` and the route has `pads`."""
    if not route.pad_count:
        return None
    return PadTable(route.pad_rows, channels, learned=learned and route.pad_rows > 0)
