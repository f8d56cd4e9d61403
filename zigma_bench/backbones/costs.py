"""Parameters and FLOPs by formula, without building a network. One multiply-add is 2 FLOPs.

L tokens, D width, E inner channels, N state, R rank of dt, W conv window, K paths of a layer, S steps of a path,
C channels, p patch.
Counted: matrix products, the products of attention, the taps of convolutions (those before the start of a path too,
which are zeros), and of a scan its operations on states (`ops/counts.py`; with 128 states, Mamba-2's chunks of 64 steps
do as many). Not counted is what acts on each value by itself, a few FLOPs a value: biases, positions, norms,
activations, softmax and its scale, shifts, scales, gates, residuals, sums and means of paths, and of a scan D u, d u
and softplus. tests/models/test_counts.py counts the operations of the plain code one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.backbones.options import (
    Conditioned,
    DitOptions,
    Mamba2Options,
    MambaOptions,
    VisionMambaOptions,
    WithText,
    ZigmaOptions,
)
from zigma_bench.errors import NotReady
from zigma_bench.mixers.registered import check_mixer_fits, mixer_cost
from zigma_bench.ops.counts import SELECTIVE_SCAN, SSD
from zigma_bench.plugins.registry import Condition, Cost, added
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

TIME_FREQUENCIES = 256  # channels of the sinusoidal embedding of time
CROSS_INNER = 512  # channels inside cross-attention: 8 heads of 64


def mamba_cost(options: MambaOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> Cost:
    """One Mamba mixer: a branch for each path with own parameters, or one for all; pads are walked like tokens."""
    D, E, N, R, W = block.width, block.inner, block.state, block.dt_rank, block.conv
    L, K, S = grid.tokens, route.K, route.steps
    F = E // K if route.merge == "concat" else E  # channels of a path
    branches, merge = branch_count(route), merge_parameters(route, E)
    parts = {
        "in_proj": 2 * D * E,
        "pads": route.pad_rows * E,
        "conv": branches * (F * W + F),
        "x_proj": branches * F * (R + 2 * N),
        "dt_proj": branches * (R * F + F),
        "scan": branches * (F * N + F + route.features * N),  # A, D and the vectors of steps
        "merge": merge,
        "out_proj": E * D,
    }
    flops = {
        "in_proj": 4 * L * D * E,
        "conv": K * 2 * S * F * W,
        "x_proj": K * 2 * S * F * (R + 2 * N),
        "dt_proj": K * 2 * S * R * F,
        "scan": K * SELECTIVE_SCAN * S * F * N,
        "merge": 2 * K * K * E if merge else 0,
        "out_proj": 2 * L * E * D,
    }
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_mamba(options: MambaOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> None:
    """Channel groups must divide the inner channels."""
    if route.merge == "concat" and block.inner % route.K:
        raise NotReady(
            f"the scan gives each of its {route.K} paths a group of channels, and {block.inner} inner channels are no "
            f"multiple of {route.K}",
            do="choose another width, or fewer paths",
        )


def mamba2_cost(options: Mamba2Options, *, block: ZigmaOptions, grid: Grid, route: Route) -> Cost:
    """One Mamba-2 mixer: a branch for each path with own parameters, or one for all; pads are projected like tokens."""
    D, E, N, G, W = block.width, block.inner, options.state, options.groups, block.conv
    L, K, S = grid.tokens, route.K, route.steps
    F = E // K if route.merge == "concat" else E  # channels of a path
    H = options.heads(F)
    chosen, convolved = 2 * G * N + H, F + 2 * G * N  # B, C and dt; x, B and C
    branches, merge = branch_count(route), merge_parameters(route, E)
    parts = {
        "in_proj": 2 * D * E,
        "pads": route.pad_rows * D,
        "bcdt_proj": branches * D * chosen,
        "conv": branches * (convolved * W + convolved),
        "scan": branches * (3 * H + route.features * G * N),  # dt bias, A, D and the vectors of steps
        "merge": merge,
        "norm": E,
        "out_proj": E * D,
    }
    projected = L + (route.pad_rows or int(route.pad_count > 0))
    flops = {
        "in_proj": 4 * projected * D * E,
        "bcdt_proj": (K * S if route.merge == "scatter" else branches * projected) * 2 * D * chosen,
        "conv": K * 2 * S * convolved * W,
        "scan": K * SSD * S * F * N,
        "merge": 2 * K * K * E if merge else 0,
        "out_proj": 2 * L * E * D,
    }
    return with_order(Cost.of(parts, flops), route, width=D, grid=grid)


def check_mamba2(options: Mamba2Options, *, block: ZigmaOptions, grid: Grid, route: Route) -> None:
    """Channel groups must divide the inner channels, and heads those of a path; the state is the mixer's own option."""
    check_mamba(MambaOptions(), block=block, grid=grid, route=route)
    default = ZigmaOptions.state
    if block.state != default:
        raise NotReady(
            "the backbone's option state is that of the mixer mamba, and mamba-2 has its own",
            expected=f"{default} (its default)",
            got=block.state,
            do="leave it out, and say mixer: {name: mamba-2, state: ...}",
        )
    options.heads(block.inner // route.K if route.merge == "concat" else block.inner)


def zigma_cost(options: ZigmaOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of ZigMa: embeddings, and in each layer a norm, adaLN, the mixer, and cross-attention to a text."""
    D, L, pixel = options.width, grid.tokens, options.patch**2 * channels
    text = 1 if options.condition == "text" else 0
    layer = Cost.of({"norm": D, "adaln": (1 + text) * (3 * D * D + 3 * D)}, {"adaln": (1 + text) * 6 * D * D})
    cross = [cross_attention_cost(D, L, options.text_tokens)] * text
    positions = Cost.of({"positions": L * D if options.positions == "learned" else 0}, {})
    ends = [patch_embed_cost(D, L, pixel), positions, time_embed_cost(D), condition_cost(options, D)]
    head = Cost.of({"final": D + D * pixel + pixel}, {"final": 2 * L * D * pixel})  # norm and linear map
    layers = [cost for mixer in _mixer_costs(options, grid, routes) for cost in (layer, mixer, *cross)]
    return added([*ends, *layers, head])


def _mixer_costs(options: ZigmaOptions, grid: Grid, routes: Sequence[Route]) -> list[Cost]:
    """The cost of every layer's mixer; layers of one route and one mixer are counted once."""
    known: dict[tuple[str, str], Cost] = {}
    keys = [(route.digest, repr(options.layer(number).mixer)) for number, route in enumerate(routes)]
    for number, (key, route) in enumerate(zip(keys, routes, strict=True)):
        if key not in known:
            known[key] = mixer_cost(options.layer(number), grid=grid, route=route).within("mixer")
    return [known[key] for key in keys]


def dit_cost(options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of DiT; the routes do not matter."""
    D, L, M = options.width, grid.tokens, options.mlp_ratio * options.width
    pixel = options.patch**2 * channels
    out = pixel * (2 if options.learn_sigma else 1)
    layer = Cost.of(
        {"adaln": 6 * D * D + 6 * D, "attention_proj": 4 * D * D + 4 * D, "mlp": 2 * D * M + M + D},
        {"adaln": 12 * D * D, "attention_proj": 8 * L * D * D, "attention": 4 * L * L * D, "mlp": 4 * L * D * M},
    )
    head = Cost.of({"adaln": 2 * D * D + 2 * D, "final": D * out + out}, {"adaln": 4 * D * D, "final": 2 * L * D * out})
    ends = [patch_embed_cost(D, L, pixel), time_embed_cost(D), condition_cost(options, D)]
    return added([*ends, *[layer] * options.depth, head])


def check_zigma(options: ZigmaOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """Sin-cos positions need a width that 4 divides and a picture, and a layer's mixer may refuse its route."""
    check_condition(options)
    if options.positions == "sincos" and options.width % 4:
        raise NotReady(f"sin-cos positions need a width that 4 divides, and {options.width} is not one")
    if options.positions == "sincos" and grid.video:
        raise NotReady(
            "sin-cos positions are those of one picture", got=str(grid), do="take positions: learned for a clip"
        )
    checked: set[tuple[str, str]] = set()
    for number, route in enumerate(routes):
        block = options.layer(number)
        if (key := (route.digest, repr(block.mixer))) not in checked:
            checked.add(key)
            check_mixer_fits(block, grid=grid, route=route)


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
    """Heads must divide the width, and sin-cos positions need a width that 4 divides and a picture."""
    check_condition(options)
    _ = options.head_count
    if options.width % 4:
        raise NotReady(f"sin-cos positions need a width that 4 divides, and {options.width} is not one")
    refuse_clips("dit and sit", grid)


def refuse_clips(backbone: str, grid: Grid) -> None:
    """Raise NotReady for a grid of several frames."""
    if grid.video:
        raise NotReady(
            f"{backbone} is a network of one picture",
            expected="a grid of 1 frame",
            got=str(grid),
            do="take zigma or vision-mamba",
        )


def check_condition(options: Conditioned) -> None:
    """Options of a condition that the network has not are given in vain, or the condition was forgotten."""
    used = {"none": (), "class": ("classes", "null_class"), "text": ("text_width", "text_tokens")}
    for condition, names in used.items():
        for name in names:
            default = getattr(type(options), name, None)  # DiT has no text at all
            if options.condition != condition and getattr(options, name, None) != default:
                raise NotReady(
                    f"the option {name} is that of a network conditioned on {condition}, and this one is not",
                    expected=f"condition: {condition}",
                    got=f"condition: {options.condition}, {name}: {getattr(options, name)}",
                    do=f"set condition, or leave {name} out",
                )


def condition_of(options: Conditioned) -> Condition | None:
    """What a network is given as y."""
    if options.condition == "class":
        return Condition("class", options.classes, options.null_class)
    if isinstance(options, WithText) and options.condition == "text":
        return Condition(
            "text", options.text_width, tokens=options.text_tokens, masked=isinstance(options, ZigmaOptions)
        )
    return None


def condition_cost(options: Conditioned, D: int) -> Cost:
    """A row a class, or the map of a text's features."""
    if isinstance(options, WithText) and options.condition == "text":
        flops = 2 * options.text_tokens * options.text_width * D
        return Cost.of({"text_embed": (options.text_width + 1) * D}, {"text_embed": flops})
    rows = options.classes + options.null_class if options.condition == "class" else 0
    return Cost.of({"class_embed": rows * D}, {})


def cross_attention_cost(D: int, L: int, S: int) -> Cost:
    """One cross-attention of L tokens to S: q, k and v without a bias, the output with one."""
    projections = 2 * (2 * L + 2 * S) * D * CROSS_INNER
    return Cost.of(
        {"cross_attention": 4 * D * CROSS_INNER + D}, {"cross_attention": projections + 4 * L * S * CROSS_INNER}
    )


def branch_count(route: Route) -> int:
    return len(route.paths) if route.share == "separate" else 1


def merge_parameters(route: Route, E: int) -> int:
    K = route.K
    return {"gate": K * K * E + K, "channel-attention": K * K * E + K * E}.get(route.merge, 0)


def with_order(mixer: Cost, route: Route, *, width: int, grid: Grid) -> Cost:
    """The mixer's cost, and that of the module that makes a learned order."""
    if route.learned is None:
        return mixer
    order: Cost = route.learned.cost(route.learned.make_options(route.learned.options), width=width, grid=grid)
    return added([mixer, Cost.of({"order": order.parameters}, {"order": order.total_flops})])


def patch_embed_cost(D: int, L: int, pixel: int) -> Cost:
    return Cost.of({"patch_embed": pixel * D + D}, {"patch_embed": 2 * L * pixel * D})


def time_embed_cost(D: int) -> Cost:
    F = TIME_FREQUENCIES
    return Cost.of({"time_embed": F * D + D + D * D + D}, {"time_embed": 2 * F * D + 2 * D * D})
