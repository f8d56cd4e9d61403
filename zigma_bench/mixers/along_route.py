"""The loop over the paths of a layer's route, shared by all mixers.

A mixer defines what happens along one path (`PathBranch`). The loop handles everything else in a `Route`: fixed and
learned paths, pads, groups of channels, parts of the tokens, stages, shared or separate parameters, and the merge. It
doesn't gather rows for operators that read them through the path.

B batch, L tokens, S steps, P pads, D width, E merged channels, K paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from zigma_bench.mixers.costs import branch_count
from zigma_bench.mixers.scan_path import SamplePath, ScanPath, make_pads, with_pads
from zigma_bench.ops.causal_conv.torch_blocks import along_path
from zigma_bench.plugins.discovery import find_spec
from zigma_bench.scans.route import Route


class PathBranch(nn.Module):
    """The part of a mixer that runs along one path, with the parameters of that path."""

    def forward(
        self,
        rows: Tensor,
        z: Tensor | None,
        path: Tensor | None,
        segment_starts: Tensor | None,
        features: Tensor | None,
    ) -> Tensor:
        """rows [B, L, C] -> [B, L, E], read and written through `path` [L]; without a path they are already in order.

        z [B, L, E]: the gate is SiLU(z), if it acts on the path. `segment_starts` [S]: the first step of each step's
        segment. `features` [L]: the id of each row's step.
        """
        raise NotImplementedError

    def project(self, tokens: Tensor) -> Tensor:
        """Project tokens [.., D] to the values [.., F] that steps read besides x, if the mixer passes `tokens`."""
        raise NotImplementedError


class GatheringBranch(PathBranch):
    """A branch with an operator that has no path argument: rows are gathered in path order, and scattered back."""

    def forward(
        self,
        rows: Tensor,
        z: Tensor | None,
        path: Tensor | None,
        segment_starts: Tensor | None,
        features: Tensor | None,
    ) -> Tensor:
        if path is None:
            y = self.mix_rows(rows, segment_starts, features)
        else:
            ids = None if features is None else features[path]
            y = along_path(lambda gathered: self.mix_rows(gathered, segment_starts, ids), [rows], path)
        return y if z is None else y * nn.functional.silu(z)

    def mix_rows(self, x: Tensor, segment_starts: Tensor | None, features: Tensor | None) -> Tensor:
        """x [B, S, C] -> [B, S, C], in the order of the path; `features` [S]: the id of each step."""
        raise NotImplementedError


class PadInputs(NamedTuple):
    """The inputs of pads: x [P, E], and the tokens [P, D] if the mixer passes `tokens` to the loop."""

    x: Tensor
    tokens: Tensor | None = None


class AlongRoute(nn.Module):
    """One layer's route as buffers, and the loop over its paths.

    A subclass creates two modules, whose names are part of the names of the weights: `branches`, a PathBranch for each
    path or one for all (`make_branches`), and `merge` (`make_merge`).
    """

    branches: nn.ModuleList
    merge: nn.Module

    def __init__(self, route: Route) -> None:
        super().__init__()
        facts = route.merge_facts
        self.path_count, self.shared = route.K, route.share == "shared"
        self.stages = route.stages or (route.K,)
        self.splits_channels, self.splits_tokens = facts.splits_channels, facts.splits_tokens
        self.gates_paths = facts.gate == "path"
        self.scan_paths = nn.ModuleList(ScanPath(route, number) for number in range(0 if route.learned else route.K))

    def along_route(
        self,
        x: Tensor,
        *,
        z: Tensor | None = None,
        tokens: Tensor | None = None,
        pads: PadInputs | None = None,
        learned: Tensor | None = None,
    ) -> Tensor:
        """x [B, L, E] -> the merged output [B, L, E], gated by SiLU(z) if there is a z [B, L, E].

        `tokens` [B, L, D]: an additional input that each branch projects itself. `learned` int64 [B, K, L]: the paths
        of each sample, which replace those of the route.
        """
        if self.splits_tokens:
            y = self._along_parts(x, tokens, pads)
        else:
            y = self._along_stages(x, z if self.gates_paths else None, tokens, pads, learned)
        return y if z is None or self.gates_paths else y * nn.functional.silu(z)

    def _along_stages(
        self, x: Tensor, z: Tensor | None, tokens: Tensor | None, pads: PadInputs | None, learned: Tensor | None
    ) -> Tensor:
        """Run the stages in sequence, each on the merged output of the previous one; most merges have only one."""
        paths = self._paths(learned)
        gates, features = self._channels(z), self._project(tokens)
        pad_rows = None if pads is None else self._rows(pads.x, self._project(pads.tokens), range(self.path_count))
        start = 0
        for count in self.stages:
            numbers = range(start, start + count)
            outputs = [
                paths[k].follow(self._branch(k), rows, gates[k], None if pad_rows is None else pad_rows[k])
                for k, rows in zip(numbers, self._rows(x, features, numbers), strict=True)
            ]
            x, start = self.merge(outputs), start + count
        return x

    def _along_parts(self, x: Tensor, tokens: Tensor | None, pads: PadInputs | None) -> Tensor:
        """Run each path on its own part of the tokens, which are gathered and projected only by its branch."""
        read, read_tokens = x, None if tokens is None else tokens.to(x.dtype)
        if pads is not None:
            read = with_pads(read, pads.x)
            read_tokens = None if read_tokens is None else with_pads(read_tokens, pads.tokens)
        parts = []
        for k, path in enumerate(cast(Sequence[ScanPath], self.scan_paths)):
            rows = path.read_part(read)
            if read_tokens is not None:
                rows = torch.cat((rows, self._branch(k).project(path.read_part(read_tokens))), -1)
            parts.append(path.write_part(self._branch(k), rows))
        merged: Tensor = self.merge(parts, x)
        return merged

    def _paths(self, learned: Tensor | None) -> Sequence[ScanPath | SamplePath]:
        if learned is not None:
            return [SamplePath(path) for path in learned.unbind(1)]
        return cast(Sequence[ScanPath], self.scan_paths)

    def _branch(self, number: int) -> PathBranch:
        branch = self.branches[0 if self.shared else number]
        assert isinstance(branch, PathBranch)
        return branch

    def _project(self, tokens: Tensor | None) -> list[Tensor] | None:
        """The tokens projected by the branch of each path; only once if all paths share a branch."""
        if tokens is None:
            return None
        if self.shared:
            return [self._branch(0).project(tokens)] * self.path_count
        return [self._branch(k).project(tokens) for k in range(self.path_count)]

    def _channels(self, x: Tensor | None) -> Sequence[Tensor | None]:
        """The channels that each path processes: its own group, or all."""
        return x.chunk(self.path_count, -1) if x is not None and self.splits_channels else [x] * self.path_count

    def _rows(self, x: Tensor, features: list[Tensor] | None, numbers: range) -> list[Tensor]:
        """The input rows of these paths: x [.., E], and the projected tokens."""
        channels = cast(Sequence[Tensor], self._channels(x))
        if features is None:
            return [channels[k] for k in numbers]
        if self.shared and not self.splits_channels:  # the same rows for all
            return [torch.cat((x, features[0]), -1)] * len(numbers)
        return [torch.cat((channels[k], features[k]), -1) for k in numbers]


class RoutedBranches(AlongRoute):
    """x [B, L, E] -> [B, L, E]: branches, merge and pads as a submodule of a mixer that has other parts as well."""

    def __init__(
        self, route: Route, make_branch: Callable[[int], PathBranch], *, channels: int, learned_pads: bool
    ) -> None:
        super().__init__(route)
        self.branches = make_branches(route, make_branch)
        self.merge = make_merge(route, channels)
        self.pads = make_pads(route, channels, learned=learned_pads)

    def forward(self, x: Tensor, learned: Tensor | None = None) -> Tensor:
        pads = None if self.pads is None else PadInputs(self.pads.table)
        return self.along_route(x, pads=pads, learned=learned)


def make_branches(route: Route, make_branch: Callable[[int], PathBranch]) -> nn.ModuleList:
    """One branch per path if the paths have separate parameters, else one for all."""
    return nn.ModuleList(make_branch(number) for number in range(branch_count(route)))


def make_merge(route: Route, channels: int) -> nn.Module:
    """The module of the route's merge, for a mixer that merges so many channels."""
    merge: nn.Module = find_spec("merge", route.merge).load()(paths=route.K, channels=channels)
    return merge
