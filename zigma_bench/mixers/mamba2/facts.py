"""The Mamba-2 mixer (SSD): options, checks, cost and activation memory. This module doesn't import torch.

L tokens, D width, E inner channels, N state size, H heads, G groups, W convolution width, K paths of a layer, and
F channels and S steps of a path.
"""

from __future__ import annotations

from dataclasses import dataclass

from zigma_bench.errors import NotReady
from zigma_bench.layers.options import Positive
from zigma_bench.mixers.block import DEFAULT_STATE, BlockOptions
from zigma_bench.mixers.costs import branch_count, check_merge_fits, merge_cost, path_channels, with_order
from zigma_bench.mixers.memory import (
    WIDE,
    gathers_rows,
    merge_memory,
    number_bytes,
    refuse_learned_order,
    saved_memory,
)
from zigma_bench.ops.counts import SSD
from zigma_bench.plugins.registry import Cost, sum_by_name
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


@dataclass(frozen=True)
class Mamba2Options:
    """Mamba-2's mixer: a causal convolution and a scan by matrix products (SSD) along each path of the layer's route.

    Each head has `head_dim` channels, and the state of each channel has size `state`. The heads are divided into
    `groups` groups; each group shares one B and one C.
    """

    head_dim: Positive = 64
    state: Positive = 128
    groups: Positive = 1

    def heads(self, channels: int) -> int:
        """H, the number of heads of so many channels; NotReady if head_dim or the groups don't divide."""
        if channels % self.head_dim:
            raise NotReady(
                f"heads of {self.head_dim} channels do not divide the {channels} inner channels of a path",
                expected=f"a divisor of {channels}",
                got=self.head_dim,
                do="choose another head_dim of the mixer mamba-2, or another width",
            )
        heads = channels // self.head_dim
        if heads % self.groups:
            raise NotReady(
                f"{self.groups} groups do not divide the {heads} heads of a path",
                expected=f"a divisor of {heads}",
                got=self.groups,
                do="choose other groups of the mixer mamba-2",
            )
        return heads


def mamba2_cost(options: Mamba2Options, *, block: BlockOptions, grid: Grid, route: Route) -> Cost:
    """The cost of one Mamba-2 mixer, with one branch per path or one for all; pads are projected like tokens."""
    D, E, N, G, W = block.width, block.inner, options.state, options.groups, block.conv
    L, K, S = grid.tokens, route.K, route.steps
    F = path_channels(route, E)
    H = options.heads(F)
    chosen, convolved = 2 * G * N + H, F + 2 * G * N  # B, C and dt; x, B and C
    branches, merge = branch_count(route), merge_cost(route, channels=E, grid=grid)
    parts = {
        "in_proj": 2 * D * E,
        "pads": route.pad_rows * D,
        "bcdt_proj": branches * D * chosen,
        "conv": branches * (convolved * W + convolved),
        "scan": branches * (3 * H + route.features * G * N),  # dt bias, A, D and a vector per step id
        "merge": merge.parameters,
        "norm": E,
        "out_proj": E * D,
    }
    projected = L + (route.pad_rows or int(route.pad_count > 0))
    flops = {
        "in_proj": 4 * projected * D * E,
        "bcdt_proj": (K * S if route.merge_facts.splits_tokens else branches * projected) * 2 * D * chosen,
        "conv": K * 2 * S * convolved * W,
        "scan": K * SSD * S * F * N,
        "merge": merge.total_flops,
        "out_proj": 2 * L * E * D,
    }
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_mamba2(options: Mamba2Options, *, block: BlockOptions, grid: Grid, route: Route) -> None:
    """NotReady unless the merge fits the inner channels, the heads divide a path's channels, and the backbone's `state`
    is at its default, because the mixer has its own."""
    check_merge_fits(route, block.inner)
    default = DEFAULT_STATE
    if block.state != default:
        raise NotReady(
            "the backbone's option state is for the mixer mamba; mamba-2 has its own option state",
            expected=f"{default} (its default)",
            got=block.state,
            do="leave it out, and set mixer: {name: mamba-2, state: ...}",
        )
    options.heads(path_channels(route, block.inner))


def mamba2_memory(
    options: Mamba2Options, *, block: BlockOptions, grid: Grid, route: Route, backend: str, precision: str
) -> dict[str, int]:
    """The activation memory of one Mamba-2 mixer, in bytes by operator; its scan recomputes the chunks."""
    refuse_learned_order(route)
    n, E, D, L = number_bytes(precision, backend), block.inner, block.width, grid.tokens
    F, S = path_channels(route, E), route.steps
    H, BC, K = options.heads(F), 2 * options.groups * options.state, route.K
    once = (
        1 if route.share == "shared" and not route.merge_facts.splits_channels else K
    )  # [x | B | C | dt], once for all paths that share parameters
    rows = {"conv": n * S * (F + BC + H) * (K if gathers_rows(route) else once)}
    saves = saved_memory(backend)
    if saves.saves_rows_in_order or (n < WIDE and saves.copies_half_precision):  # float32, and the sums before SiLU
        rows = {"conv": (2 if saves.saves_rows_in_order else 1) * K * WIDE * S * (F + BC)}
    projected = 0 if n == WIDE else once * n * L * D  # another copy of the token in bfloat16
    projected = K * n * S * D if route.merge_facts.splits_tokens else projected
    scan = K * (n * S * (F + BC) + WIDE * S * H)
    normed = 3 if saves.norm_is_one_kernel else 4  # y, SiLU(z), their product
    z = 2 * n * L * E if n == WIDE else WIDE * L * E  # in_proj's output, or a copy of its half
    norm = normed * WIDE * L * E + z
    ends = {"in_proj": n * L * D, "bcdt_proj": projected, "scan": scan, "norm": norm, "out_proj": n * L * E}
    return sum_by_name([ends, rows, merge_memory(route, n, L, E)])
