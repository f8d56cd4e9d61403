"""Parameters and FLOPs of the layers that backbones share, and checks of their options. Doesn't import torch.

L tokens, D width, P prefix tokens, C channels, p patch. One multiply-add is 2 FLOPs; `mixers/costs.py` lists the
operations that count.
"""

from __future__ import annotations

from zigma_bench.errors import NotReady
from zigma_bench.layers.options import Conditioned, PositionKind, WithText
from zigma_bench.plugins.registry import Condition, Cost
from zigma_bench.scans.grid import Grid

TIME_FREQUENCIES = 256  # channels of the sinusoidal embedding of time
CROSS_INNER = 512  # channels inside cross-attention: 8 heads of 64


def refuse_clips(backbone: str, grid: Grid) -> None:
    """Raise NotReady for a grid of several frames."""
    if grid.video:
        raise NotReady(
            f"{backbone} can only run on single images",
            expected="a grid of 1 frame",
            got=str(grid),
            do="use zigma, vision-mamba or hybrid",
        )


def check_positions(positions: PositionKind, *, width: int, grid: Grid) -> None:
    """Raise NotReady if sin-cos positions don't fit the width or the grid."""
    if positions == "sincos" and width % 4:
        raise NotReady(f"sin-cos positions need a width divisible by 4, and {width} is not")
    if positions == "sincos" and grid.video:
        raise NotReady(
            "sin-cos positions are defined for single images", got=str(grid), do="set positions: learned for clips"
        )


def positions_cost(positions: PositionKind, D: int, tokens: int) -> Cost:
    """The cost of a position embedding: a vector per token, if it is learned."""
    return Cost.of({"positions": tokens * D if positions == "learned" else 0}, {})


def check_condition(options: Conditioned) -> None:
    """NotReady if options of another condition are set: they would have no effect, or `condition` was forgotten."""
    used = {"none": (), "class": ("classes", "null_class"), "text": ("text_width", "text_tokens")}
    for condition, names in used.items():
        for name in names:
            default = getattr(type(options), name, None)  # DiT has no text options
            if options.condition != condition and getattr(options, name, None) != default:
                raise NotReady(
                    f"the option {name} is for networks conditioned on {condition}, and this one is not",
                    expected=f"condition: {condition}",
                    got=f"condition: {options.condition}, {name}: {getattr(options, name)}",
                    do=f"set condition, or omit {name}",
                )


def condition_of(options: Conditioned) -> Condition | None:
    """The condition that a network takes as y; None if it is unconditional."""
    if options.condition == "class":
        return Condition("class", options.classes, options.null_class)
    if isinstance(options, WithText) and options.condition == "text":
        return Condition("text", options.text_width, tokens=options.text_tokens, masked=options.takes_mask)
    return None


def condition_cost(options: Conditioned, D: int) -> Cost:
    """The cost of the class embedding, or of the linear layer for text features."""
    if isinstance(options, WithText) and options.condition == "text":
        flops = 2 * options.text_tokens * options.text_width * D
        return Cost.of({"text_embed": (options.text_width + 1) * D}, {"text_embed": flops})
    rows = options.classes + options.null_class if options.condition == "class" else 0
    return Cost.of({"class_embed": rows * D}, {})


def cross_attention_cost(D: int, L: int, S: int) -> Cost:
    """The cost of one cross-attention of L tokens to S text tokens, with a bias only in the output."""
    projections = 2 * (2 * L + 2 * S) * D * CROSS_INNER
    return Cost.of(
        {"cross_attention": 4 * D * CROSS_INNER + D}, {"cross_attention": projections + 4 * L * S * CROSS_INNER}
    )


def patch_embed_cost(D: int, L: int, pixel: int) -> Cost:
    return Cost.of({"patch_embed": pixel * D + D}, {"patch_embed": 2 * L * pixel * D})


def time_embed_cost(D: int) -> Cost:
    F = TIME_FREQUENCIES
    return Cost.of({"time_embed": F * D + D + D * D + D}, {"time_embed": 2 * F * D + 2 * D * D})


def long_skip_cost(width: int, tokens: int) -> tuple[int, int]:
    """Parameters and FLOPs of one LongSkip."""
    return 2 * width * width + width, 4 * tokens * width * width


def grid_conv_cost(width: int, grid: Grid, size: int = 3) -> tuple[int, int]:
    """Parameters and FLOPs of one GridConv."""
    return width * size**2 + width, 2 * grid.tokens * width * size**2


def refuse_uncounted_memory(options: Conditioned) -> None:
    """NotReady for options whose activation memory isn't modelled."""
    if options.condition == "text":
        raise NotReady("there is no estimate of the memory of a network that is conditioned on text")
    if options.gradient_checkpointing:
        raise NotReady("there is no estimate of the memory of gradient checkpointing")
