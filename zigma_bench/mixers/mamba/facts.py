"""The Mamba mixer (S6): options, checks, cost and activation memory. This module doesn't import torch.

L tokens, D width, E inner channels, N state size, R rank of dt, W convolution width, K paths of a layer, F channels and
S steps of a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zigma_bench.errors import NotReady
from zigma_bench.layers.costs import grid_conv_cost
from zigma_bench.mixers.block import BlockOptions
from zigma_bench.mixers.costs import (
    branch_count,
    check_merge_fits,
    merge_cost,
    path_channels,
    refuse_unused,
    with_order,
)
from zigma_bench.mixers.memory import (
    WIDE,
    gate_memory,
    gates_in_scan,
    gathers_rows,
    is_one_operator,
    merge_memory,
    number_bytes,
    refuse_learned_order,
    saved_memory,
)
from zigma_bench.ops.counts import SELECTIVE_SCAN
from zigma_bench.plugins.registry import Cost, sum_by_name
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


@dataclass(frozen=True)
class MambaOptions:
    """Mamba's mixer: a causal convolution and a selective scan (S6) along each path of the layer's route.

    `convolution`: `path` is Mamba's own, causal along each path, with the backbone's option `conv` as its width. `grid`
    is a depthwise convolution of `kernel` x `kernel` tokens on the image grid (on each frame of a clip), with zero
    padding of (kernel - 1) / 2, once per layer before its paths: the order of the tokens only enters the scan. `none`
    removes the convolution. SiLU follows in all three.
    Source of `grid`: VMamba's SS2D (arXiv 2401.10166), a depthwise 3 x 3 convolution before its four paths.
    """

    convolution: Literal["path", "grid", "none"] = "path"
    kernel: Literal[3, 5, 7] = 3

    @property
    def is_along_path(self) -> bool:
        """Whether each path has its own convolution, as in Mamba."""
        return self.convolution == "path"


def runs_as_one_operator(options: MambaOptions, route: Route) -> bool:
    """Whether `fused` computes convolution, projections and scan of the layer as one operator."""
    return options.is_along_path and is_one_operator(route)


def mamba_cost(options: MambaOptions, *, block: BlockOptions, grid: Grid, route: Route) -> Cost:
    """The cost of one Mamba mixer, with one branch per path or one for all; pads cost as much as tokens."""
    D, E, N, R, W = block.width, block.inner, block.state, block.dt_rank, block.conv
    L, K, S = grid.tokens, route.K, route.steps
    F, branches = path_channels(route, E), branch_count(route)
    merge = merge_cost(route, channels=E, grid=grid)
    conv = {"path": (branches * (F * W + F), K * 2 * S * F * W), "grid": grid_conv_cost(E, grid, options.kernel)}
    conv_parameters, conv_flops = conv.get(options.convolution, (0, 0))
    parts = {
        "in_proj": 2 * D * E,
        "pads": route.pad_rows * E,
        "conv": conv_parameters,
        "x_proj": branches * F * (R + 2 * N),
        "dt_proj": branches * (R * F + F),
        "scan": branches * (F * N + F + route.features * N),  # A, D and a vector per step id
        "merge": merge.parameters,
        "out_proj": E * D,
    }
    flops = {
        "in_proj": 4 * L * D * E,
        "conv": conv_flops,
        "x_proj": K * 2 * S * F * (R + 2 * N),
        "dt_proj": K * 2 * S * R * F,
        "scan": K * SELECTIVE_SCAN * S * F * N,
        "merge": merge.total_flops,
        "out_proj": 2 * L * E * D,
    }
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_mamba(options: MambaOptions, *, block: BlockOptions, grid: Grid, route: Route) -> None:
    """NotReady unless the merge fits the inner channels, and the convolution fits the route and the other options."""
    check_merge_fits(route, block.inner)
    if options.convolution != "grid" and options.kernel != MambaOptions.kernel:
        raise NotReady(
            "the mixer's option kernel is for a convolution on the grid",
            expected="convolution: grid",
            got=f"convolution: {options.convolution}, kernel: {options.kernel}",
            do="set convolution: grid, or omit kernel",
        )
    if options.is_along_path:
        return
    refuse_unused(f"mamba with convolution: {options.convolution}", block, ("conv",))
    if route.merge_facts.has_stages:
        raise NotReady(
            "each stage of the scan has its own convolution along its paths",
            expected="convolution: path",
            got=f"convolution: {options.convolution}, and a scan with the merge {route.merge}",
            do="omit convolution, or use a scan without stages",
        )


def mamba_memory(
    options: MambaOptions, *, block: BlockOptions, grid: Grid, route: Route, backend: str, precision: str
) -> dict[str, int]:
    """The activation memory of one Mamba mixer, in bytes by operator."""
    refuse_learned_order(route)
    n, E, D, L = number_bytes(precision, backend), block.inner, block.width, grid.tokens
    along_path, one_operator = options.is_along_path, runs_as_one_operator(options, route)
    paths = [_path_memory(block, route, backend, n, convolves=along_path, one_operator=one_operator)] * route.K
    saves = saved_memory(backend)
    copied = saves.copies_half_precision and n < WIDE and gates_in_scan(route)  # the halves of in_proj's output
    in_place = not (gathers_rows(route) or saves.saves_rows_in_order or (saves.copies_half_precision and n < WIDE))
    recomputed = saves.recomputes_mixer and one_operator
    half, again = n * L * E, recomputed and route.merge_facts.is_sum  # y
    in_proj = n * L * D * (not recomputed)  # saved, unless the preceding norm recomputes it
    conv = {"conv": half * in_place} if along_path else _stream_memory(options, route, half)
    ends = {"in_proj": in_proj, "scan": half * (not copied), "out_proj": half * (not again)}
    return sum_by_name(
        [
            ends,
            conv,
            *paths,
            merge_memory(route, n, L, E),
            {} if gates_in_scan(route) else gate_memory(route, n, L, E),
        ]
    )


def _stream_memory(options: MambaOptions, route: Route, half: int) -> dict[str, int]:
    """The memory of a convolution before the paths and of its activation; `half`: the bytes of x. All paths read one u,
    unless they gather their rows."""
    inputs = {"grid": 2, "none": 1}[options.convolution]  # x, and on the grid also the sums before SiLU
    return {"conv": inputs * half, "x_proj": 0 if gathers_rows(route) else half}


def _path_memory(
    block: BlockOptions, route: Route, backend: str, n: int, *, convolves: bool, one_operator: bool
) -> dict[str, int]:
    """The memory of one path, in addition to in_proj's output. `convolves`: it has a convolution, so a u of its own."""
    N, R, S = block.state, block.dt_rank, route.steps
    F = path_channels(route, block.inner)
    saves = saved_memory(backend)
    states = WIDE * F * N * -(-S // saves.steps_per_state)
    projected, copies = n * S * (R + 2 * N), 0 if n == WIDE else WIDE * S * F
    gathered = n * S * F if gathers_rows(route) and not saves.saves_rows_in_order else 0
    u = n * S * F if convolves or gathers_rows(route) else 0
    if saves.recomputes_mixer:
        saved = 0 if one_operator else n * S * F  # delta
        marked = n * S * N * bool(route.features)  # B plus the step vectors
        conv = gathered if convolves else 0
        return {"conv": conv, "x_proj": u * (not one_operator), "dt_proj": projected, "scan": saved + states + marked}
    if not saves.saves_rows_in_order:
        x, of_scan = copies or gathered, WIDE * S * F + copies + (copies if gates_in_scan(route) else 0)
    else:  # the rows in order and the sums before SiLU; delta, d, y and SiLU(z)
        x, of_scan = 2 * WIDE * S * F, 2 * WIDE * S * F + copies
        of_scan += (2 * WIDE * S * F + copies) if gates_in_scan(route) else 0
    widened = WIDE * S * 2 * N if copies else WIDE * S * N * bool(route.features)  # B and C; B with what is added
    return {"conv": x if convolves else 0, "x_proj": u, "dt_proj": projected, "scan": of_scan + states + widened}
