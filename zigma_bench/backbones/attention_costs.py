"""Parameters and FLOPs by formula of attention and the identity as mixers, of U-ViT, and of pieces of a backbone.

L tokens, D width, E inner channels, K paths of a layer, S steps of a path, P prefix tokens, C channels, p patch; what
counts and what does not is said in costs.py. Attention under a mask counts all pairs of steps, as it computes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.backbones.costs import (
    branch_count,
    check_condition,
    check_mamba,
    check_zigma,
    condition_cost,
    merge_parameters,
    patch_embed_cost,
    refuse_clips,
    with_order,
)
from zigma_bench.backbones.options import (
    AttentionOptions,
    HybridOptions,
    IdentityOptions,
    MambaOptions,
    UvitOptions,
    ZigmaOptions,
    head_count,
)
from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import Cost, added
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


def attention_cost(options: AttentionOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> Cost:
    """One attention mixer: a branch for each path with own parameters, or one for all; pads attend like tokens."""
    D, K, S = block.width, route.K, route.steps
    F = D // K if route.merge == "concat" else D  # channels of a path
    branches, merge = branch_count(route), merge_parameters(route, D)
    parts = {
        "pads": route.pad_rows * D,
        "attention_proj": branches * (3 * F * F + 3 * F) + D * D + D,
        "attention": branches * route.features * F,  # the vectors of steps
        "merge": merge,
    }
    flops = {
        "attention_proj": K * 6 * S * F * F + 2 * grid.tokens * D * D,
        "attention": K * 4 * S * S * F,
        "merge": 2 * K * K * D if merge else 0,
    }
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def identity_cost(options: IdentityOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> Cost:
    """One identity mixer: Mamba's two projections of a layer, and the merge."""
    D, E, L, K = block.width, block.inner, grid.tokens, route.K
    merge = merge_parameters(route, E)
    flops = {"in_proj": 4 * L * D * E, "merge": 2 * K * K * E if merge else 0, "out_proj": 2 * L * E * D}
    parts = {"in_proj": 2 * D * E, "merge": merge, "out_proj": D * E}
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_attention(options: AttentionOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> None:
    """Groups of channels and heads must divide, and what only Mamba has a use for stays at its default."""
    _refuse_unused("attention", block, ("expand", "state", "conv"))
    if route.merge == "concat" and block.width % route.K:
        raise NotReady(
            f"the scan gives each of its {route.K} paths a group of channels, and a width of {block.width} is no "
            f"multiple of {route.K}",
            do="choose another width, or fewer paths",
        )
    head_count(block.width // route.K if route.merge == "concat" else block.width, options.heads)


def check_identity(options: IdentityOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> None:
    """Groups of channels must divide, and what only Mamba has a use for stays at its default."""
    _refuse_unused("identity", block, ("state", "conv"))
    check_mamba(MambaOptions(), block=block, grid=grid, route=route)


def _refuse_unused(mixer: str, block: ZigmaOptions, names: Sequence[str]) -> None:
    """An option that a mixer does not read must not be given another value in vain."""
    for name in names:
        value, default = getattr(block, name), getattr(ZigmaOptions, name)
        if value != default:
            raise NotReady(
                f"the mixer {mixer} has no use for the backbone's option {name}",
                expected=f"{default} (its default)",
                got=value,
                do="leave it out, or take another mixer",
            )


def check_hybrid(options: HybridOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """As ZigMa, and at least one layer attends."""
    if options.every > options.depth:
        raise NotReady(
            f"no layer is one of attention: of {options.depth} layers the first is layer {options.every}",
            expected=f"every from 1 to {options.depth}",
            got=options.every,
            do="choose a smaller every, or take the backbone zigma",
        )
    check_zigma(options, grid=grid, routes=routes)


def uvit_cost(options: UvitOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of U-ViT; the routes do not matter."""
    D, P, M = options.width, options.prefix, options.mlp_ratio * options.width
    depth, half, pixel = options.depth, options.depth // 2, options.patch**2 * channels
    L, S = grid.tokens, grid.tokens + P
    layer = Cost.of(
        {"norm": 4 * D, "attention_proj": 4 * D * D + D, "mlp": 2 * D * M + M + D},
        {"attention_proj": 8 * S * D * D, "attention": 4 * S * S * D, "mlp": 4 * S * D * M},
    )
    positions = Cost.of({"positions": S * D}, {})
    skips = Cost.of({"skip": half * (2 * D * D + D)}, {"skip": half * 4 * S * D * D})
    final = Cost.of(
        {"final": 2 * D + (D * pixel + pixel) + (9 * channels * channels + channels)},
        {"final": 2 * L * D * pixel + 18 * L * options.patch**2 * channels * channels},
    )
    ends = [patch_embed_cost(D, L, pixel), condition_cost(options, D), positions]
    return added([*ends, *[layer] * depth, skips, final])


def check_uvit(options: UvitOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """Heads must divide the width, and every late block has an early one besides the one in the middle."""
    check_condition(options)
    _ = options.head_count
    if options.depth % 2 == 0:
        raise NotReady(
            "u-vit pairs early and late blocks around one in the middle",
            expected="an odd depth",
            got=options.depth,
            do=f"take {options.depth - 1} or {options.depth + 1}",
        )
    if options.width % 2:
        raise NotReady(f"time needs an even width for its sines and cosines, and {options.width} is odd")
    refuse_clips("u-vit", grid)


def long_skip_cost(width: int, tokens: int) -> tuple[int, int]:
    """Parameters and FLOPs of one LongSkip."""
    return 2 * width * width + width, 4 * tokens * width * width


def grid_conv_cost(width: int, grid: Grid, size: int = 3) -> tuple[int, int]:
    """Parameters and FLOPs of one GridConv."""
    return width * size**2 + width, 2 * grid.tokens * width * size**2
