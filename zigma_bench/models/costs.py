"""Parameters and FLOPs by formula, without building a network. One multiply-add is 2 FLOPs.

L tokens, D width, E inner channels, N state, R rank of dt, W conv window, K paths of a layer, C channels, p patch.
Norms, activations and sums (a few FLOPs a value) are not counted; matrix products, convolutions and scans are.
The scan counts 9 FLOPs for each token, channel and state, as the repositories of Mamba and VMamba do.
"""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.errors import NotReady
from zigma_bench.grid import Grid
from zigma_bench.models.options import DitOptions, VisionMambaOptions, ZigmaOptions
from zigma_bench.registry import Cost
from zigma_bench.scans.route import Route

TIME_FREQUENCIES = 256  # channels of the sinusoidal embedding of time


def zigma_cost(options: ZigmaOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of ZigMa: a layer's branches are one for each path with own parameters, or one shared by all."""
    D, E, N, R, W = options.width, options.inner, options.state, options.dt_rank, options.conv
    L, pixel = grid.tokens, options.patch**2 * channels
    branch = E * W + E + E * (R + 2 * N) + R * E + E + E * N + E  # conv, x_proj, dt_proj, A, D
    branches = sum(_branches(route) for route in routes)
    walks = sum(len(route.paths) for route in routes)
    positions = L * D if options.positions == "learned" else 0
    layer = D + (3 * D * D + 3 * D) + 2 * D * E + E * D  # norm, adaLN, in_proj, out_proj
    parameters = (
        pixel * D + D + positions + _time_parameters(D) + len(routes) * layer + branches * branch
        + D + (D * pixel + pixel)
    )  # fmt: skip
    flops = {
        "patch_embed": 2 * L * pixel * D,
        "time_embed": _time_flops(D),
        "adaln": len(routes) * 6 * D * D,
        "in_proj": len(routes) * 4 * L * D * E,
        "conv": walks * 2 * L * E * W,
        "x_proj": walks * 2 * L * E * (R + 2 * N),
        "dt_proj": walks * 2 * L * R * E,
        "scan": walks * 9 * L * E * N,
        "out_proj": len(routes) * 2 * L * E * D,
        "final": 2 * L * D * pixel,
    }
    return Cost(parameters, flops)


def dit_cost(options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of DiT; the routes do not matter."""
    D, L, M = options.width, grid.tokens, options.mlp_ratio * options.width
    pixel, depth = options.patch**2 * channels, options.depth
    layer = (6 * D * D + 6 * D) + (4 * D * D + 4 * D) + (2 * D * M + M + D)  # adaLN, attention, MLP
    parameters = (
        pixel * D + D + _time_parameters(D) + depth * layer + (2 * D * D + 2 * D) + (D * pixel + pixel)
    )  # fmt: skip
    flops = {
        "patch_embed": 2 * L * pixel * D,
        "time_embed": _time_flops(D),
        "adaln": depth * 12 * D * D + 4 * D * D,
        "attention_proj": depth * 8 * L * D * D,
        "attention": depth * 4 * L * L * D,
        "mlp": depth * 4 * L * D * M,
        "final": 2 * L * D * pixel,
    }
    return Cost(parameters, flops)


def check_zigma(options: ZigmaOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """Sin-cos positions need a width that 4 divides."""
    if options.positions == "sincos" and options.width % 4:
        raise NotReady(f"sin-cos positions need a width that 4 divides, and {options.width} is not one")


def check_vision_mamba(options: VisionMambaOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """VisionMamba has two branches a layer, so a layer's route must have two paths with own parameters."""
    check_zigma(options, grid=grid, routes=routes)
    for layer, route in enumerate(routes):
        if len(route.paths) != 2 or route.share != "separate":
            raise NotReady(
                "vision-mamba has two branches with own parameters in every layer, which this scan does not fill",
                expected="two paths with separate parameters",
                got=f"{len(route.paths)} path(s), parameters {route.share}, in layer {layer}",
                do="leave the scan out (its own is bidirectional), or take the backbone zigma",
            )


def check_dit(options: DitOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """Heads must divide the width, and sin-cos positions need a width that 4 divides."""
    _ = options.head_count
    if options.width % 4:
        raise NotReady(f"sin-cos positions need a width that 4 divides, and {options.width} is not one")


def _branches(route: Route) -> int:
    return len(route.paths) if route.share == "separate" else 1


def _time_parameters(D: int) -> int:
    return TIME_FREQUENCIES * D + D + D * D + D


def _time_flops(D: int) -> int:
    return 2 * TIME_FREQUENCIES * D + 2 * D * D
