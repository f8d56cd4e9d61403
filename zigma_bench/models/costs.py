"""Parameters and FLOPs by formula, without building a network. One multiply-add is 2 FLOPs.

L tokens, D width, E inner channels, N state, R rank of dt, W conv window, K paths of a layer, S steps of a path,
C channels, p patch.
Norms, activations and sums (a few FLOPs a value) are not counted; matrix products, convolutions and scans are.
The scan counts 9 FLOPs for each token, channel and state, as the repositories of Mamba and VMamba do; Mamba-2's, whose
decay is one number a head, the 5 of its recurrence (with 128 states, chunks of 64 steps do as many).
"""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.errors import NotReady
from zigma_bench.grid import Grid
from zigma_bench.models.mixers import check_mixer_fits, mixer_cost
from zigma_bench.models.options import (
    Conditioned,
    DitOptions,
    Mamba2Options,
    MambaOptions,
    VisionMambaOptions,
    WithText,
    ZigmaOptions,
)
from zigma_bench.registry import Condition, Cost
from zigma_bench.scans.route import Route

TIME_FREQUENCIES = 256  # channels of the sinusoidal embedding of time
CROSS_INNER = 512  # channels inside cross-attention: 8 heads of 64


def mamba_cost(options: MambaOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> Cost:
    """One Mamba mixer: a branch for each path with own parameters, or one for all; pads are walked like tokens."""
    D, E, N, R, W = block.width, block.inner, block.state, block.dt_rank, block.conv
    L, K, S = grid.tokens, route.K, route.steps
    F = E // K if route.merge == "concat" else E  # channels of a path
    branch = F * W + F + F * (R + 2 * N) + R * F + F + F * N + F + route.features * N  # conv, x_proj, dt, A, D
    merge = merge_parameters(route, E)
    parameters = 2 * D * E + E * D + branch_count(route) * branch + route.pad_rows * E + merge
    flops = {
        "in_proj": 4 * L * D * E,
        "conv": K * 2 * S * F * W,
        "x_proj": K * 2 * S * F * (R + 2 * N),
        "dt_proj": K * 2 * S * R * F,
        "scan": K * 9 * S * F * N,
        "merge": 2 * K * K * E if merge else 0,
        "out_proj": 2 * L * E * D,
    }
    return with_order(Cost(parameters, flops), route, width=D, grid=grid)


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
    branch = D * chosen + convolved * W + convolved + 3 * H + route.features * G * N  # projection, conv, dt bias, A, D
    merge = merge_parameters(route, E)
    parameters = 2 * D * E + E + E * D + branch_count(route) * branch + route.pad_rows * D + merge
    projected = L + (route.pad_rows or int(route.pad_count > 0))
    flops = {
        "in_proj": 4 * projected * D * E,
        "bcdt_proj": (K * S if route.merge == "scatter" else branch_count(route) * projected) * 2 * D * chosen,
        "conv": K * 2 * S * convolved * W,
        "scan": K * 5 * S * F * N,
        "merge": 2 * K * K * E if merge else 0,
        "out_proj": 2 * L * E * D,
    }
    return with_order(Cost(parameters, flops), route, width=D, grid=grid)


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
    positions = L * D if options.positions == "learned" else 0
    layers = _layer_costs(options, grid, routes)
    text = 1 if options.condition == "text" else 0
    cross, cross_flops = cross_attention_cost(D, L, options.text_tokens)
    layer = D + (1 + text) * (3 * D * D + 3 * D) + text * cross  # norm, adaLN, cross-attention
    parameters = (
        pixel * D + D + positions + time_parameters(D) + condition_parameters(options, D) + len(layers) * layer
        + sum(mixer.parameters for mixer in layers) + D + (D * pixel + pixel)
    )  # fmt: skip
    flops = {
        "patch_embed": 2 * L * pixel * D,
        "time_embed": time_flops(D),
        "adaln": len(layers) * (1 + text) * 6 * D * D,
        "final": 2 * L * D * pixel,
    }
    if text:
        flops |= {"text_embed": text_flops(options, D), "cross_attention": len(layers) * cross_flops}
    for mixer in layers:
        for name, count in mixer.forward_flops.items():
            flops[name] = flops.get(name, 0) + count
    return Cost(parameters, flops)


def _layer_costs(options: ZigmaOptions, grid: Grid, routes: Sequence[Route]) -> list[Cost]:
    """The cost of every layer's mixer; layers of one route and one mixer are counted once."""
    known: dict[tuple[str, str], Cost] = {}
    keys = [(route.digest, repr(options.layer(number).mixer)) for number, route in enumerate(routes)]
    for number, (key, route) in enumerate(zip(keys, routes, strict=True)):
        if key not in known:
            known[key] = mixer_cost(options.layer(number), grid=grid, route=route)
    return [known[key] for key in keys]


def dit_cost(options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of DiT; the routes do not matter."""
    D, L, M = options.width, grid.tokens, options.mlp_ratio * options.width
    pixel, depth = options.patch**2 * channels, options.depth
    out = pixel * (2 if options.learn_sigma else 1)
    layer = (6 * D * D + 6 * D) + (4 * D * D + 4 * D) + (2 * D * M + M + D)  # adaLN, attention, MLP
    parameters = (
        pixel * D + D + time_parameters(D) + condition_parameters(options, D) + depth * layer
        + (2 * D * D + 2 * D) + (D * out + out)
    )  # fmt: skip
    flops = {
        "patch_embed": 2 * L * pixel * D,
        "time_embed": time_flops(D),
        "adaln": depth * 12 * D * D + 4 * D * D,
        "attention_proj": depth * 8 * L * D * D,
        "attention": depth * 4 * L * L * D,
        "mlp": depth * 4 * L * D * M,
        "final": 2 * L * D * out,
    }
    return Cost(parameters, flops)


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
        return Condition("class", options.classes)
    if isinstance(options, WithText) and options.condition == "text":
        return Condition("text", options.text_width)
    return None


def condition_parameters(options: Conditioned, D: int) -> int:
    """A row a class, or the map of a text's features."""
    if isinstance(options, WithText) and options.condition == "text":
        return (options.text_width + 1) * D
    return (options.classes + options.null_class) * D if options.condition == "class" else 0


def text_flops(options: WithText, D: int) -> int:
    """Of the map of a text's features."""
    return 2 * options.text_tokens * options.text_width * D


def cross_attention_cost(D: int, L: int, S: int) -> tuple[int, int]:
    """Parameters and FLOPs of one cross-attention of L tokens to S: q, k and v without a bias, the output with one."""
    parameters = 4 * D * CROSS_INNER + D
    projections = 2 * (2 * L + 2 * S) * D * CROSS_INNER
    return parameters, projections + 4 * L * S * CROSS_INNER


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
    return Cost(mixer.parameters + order.parameters, {**mixer.forward_flops, "order": order.total_flops})


def time_parameters(D: int) -> int:
    return TIME_FREQUENCIES * D + D + D * D + D


def time_flops(D: int) -> int:
    return 2 * TIME_FREQUENCIES * D + 2 * D * D
