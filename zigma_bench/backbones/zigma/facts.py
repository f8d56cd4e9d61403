"""ZigMa, VisionMamba and the hybrid: options, named sizes, checks, cost and activation memory. Doesn't import torch.

L tokens, D width, p patch, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from annotated_types import Interval

from zigma_bench.errors import NotReady
from zigma_bench.layers.costs import (
    check_condition,
    check_positions,
    condition_cost,
    cross_attention_cost,
    patch_embed_cost,
    positions_cost,
    refuse_uncounted_memory,
    time_embed_cost,
)
from zigma_bench.layers.options import Depth, PositionKind, Positive, Rate, WithText
from zigma_bench.mixers.block import DEFAULT_CONV, DEFAULT_EXPAND, DEFAULT_STATE
from zigma_bench.mixers.lookup import check_mixer_fits, mixer_cost, mixer_memory
from zigma_bench.mixers.memory import WIDE, number_bytes, saved_memory
from zigma_bench.ops.backends import backend_named
from zigma_bench.plugins.registry import Cost, add_costs, sum_by_name
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

# Widths and depths of the official factory functions (CompVis/zigma model_zigma.py; its S has width 368).
ZIGMA_SIZES = {
    "S": {"width": 368, "depth": 24},
    "B": {"width": 768, "depth": 24},
    "M": {"width": 768, "depth": 48},
    "L": {"width": 1024, "depth": 48},
    "H": {"width": 1536, "depth": 48},
}


@dataclass(frozen=True)
class ZigmaOptions(WithText):
    """ZigMa: adaLN blocks of Mamba in which each layer has its own scan path (arXiv 2403.13802)."""

    takes_mask = True

    width: Positive
    depth: Depth
    patch: Positive
    expand: Positive = DEFAULT_EXPAND
    state: Annotated[int, Interval(ge=1, le=64)] = DEFAULT_STATE
    conv: Annotated[int, Interval(ge=1, le=8)] = DEFAULT_CONV
    positions: PositionKind = "learned"
    residual: Literal["official", "textbook"] = "official"
    drop_path: Rate = 0.1
    mixer: str | dict[str, Any] = "mamba"

    @property
    def inner(self) -> int:
        """E, the channels inside a mixer."""
        return self.expand * self.width

    @property
    def dt_rank(self) -> int:
        return math.ceil(self.width / 16)

    @property
    def zero_backward_dt_bias(self) -> bool:
        """Whether the dt bias of all branches except the first is initialized to zero."""
        return False

    def layer(self, number: int) -> ZigmaOptions:
        """The options of one layer."""
        return self


@dataclass(frozen=True)
class VisionMambaOptions(ZigmaOptions):
    """VisionMamba: ZigMa's baseline `v2`, which scans the raster forwards and backwards with separate parameters."""

    init: Literal["like-forward", "official"] = "like-forward"

    @property
    def zero_backward_dt_bias(self) -> bool:
        return self.init == "official"


@dataclass(frozen=True)
class HybridOptions(ZigmaOptions):
    """Hybrid: ZigMa with softmax attention as the mixer of every `every`-th layer, and Mamba in the others."""

    every: Positive = 4
    heads: Positive | None = None

    def attends(self, number: int) -> bool:
        """Whether the mixer of a layer is attention: the last of every `every` layers."""
        return (number + 1) % self.every == 0

    def layer(self, number: int) -> ZigmaOptions:
        if not self.attends(number):
            return self
        default = ZigmaOptions  # attention ignores these options of the other layers
        attention = {"name": "attention", "options": {"heads": self.heads}}
        return replace(self, mixer=attention, expand=default.expand, state=default.state, conv=default.conv)


def zigma_cost(options: ZigmaOptions, *, grid: Grid, channels: int, routes: Sequence[Route]) -> Cost:
    """The cost of ZigMa: embeddings, and per layer a norm, adaLN, the mixer, and cross-attention if it takes text."""
    D, L, pixel = options.width, grid.tokens, options.patch**2 * channels
    text = 1 if options.condition == "text" else 0
    layer = Cost.of({"norm": D, "adaln": (1 + text) * (3 * D * D + 3 * D)}, {"adaln": (1 + text) * 6 * D * D})
    cross = [cross_attention_cost(D, L, options.text_tokens)] * text
    positions = positions_cost(options.positions, D, L)
    ends = [patch_embed_cost(D, L, pixel), positions, time_embed_cost(D), condition_cost(options, D)]
    head = Cost.of({"final": D + D * pixel + pixel}, {"final": 2 * L * D * pixel})  # norm and linear map
    layers = [cost for mixer in _mixer_costs(options, grid, routes) for cost in (layer, mixer, *cross)]
    return add_costs([*ends, *layers, head])


def _mixer_costs(options: ZigmaOptions, grid: Grid, routes: Sequence[Route]) -> list[Cost]:
    """The cost of each layer's mixer, computed once for all layers with the same route and mixer."""
    known: dict[tuple[str, str], Cost] = {}
    keys = [(route.digest, repr(options.layer(number).mixer)) for number, route in enumerate(routes)]
    for number, (key, route) in enumerate(zip(keys, routes, strict=True)):
        if key not in known:
            known[key] = mixer_cost(options.layer(number), grid=grid, route=route).within("mixer")
    return [known[key] for key in keys]


def check_zigma(options: ZigmaOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """NotReady if sin-cos positions don't fit the width or the grid, or if a mixer can't run its route."""
    check_condition(options)
    check_positions(options.positions, width=options.width, grid=grid)
    checked: set[tuple[str, str]] = set()
    for number, route in enumerate(routes):
        block = options.layer(number)
        if (key := (route.digest, repr(block.mixer))) not in checked:
            checked.add(key)
            check_mixer_fits(block, grid=grid, route=route)


def check_vision_mamba(options: VisionMambaOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """NotReady unless every route has two paths with separate parameters, one for each branch of a layer."""
    check_zigma(options, grid=grid, routes=routes)
    for layer, route in enumerate(routes):
        if len(route.paths) != 2 or route.share != "separate":
            raise NotReady(
                "vision-mamba has two branches with separate parameters in every layer, and this scan doesn't",
                expected="two paths with separate parameters",
                got=f"{len(route.paths)} path(s), parameters {route.share}, in layer {layer}",
                do="omit the scan (the default is bidirectional), or use the backbone zigma",
            )


def check_hybrid(options: HybridOptions, *, grid: Grid, routes: Sequence[Route]) -> None:
    """The checks of ZigMa, and NotReady if no layer has attention."""
    if options.every > options.depth:
        raise NotReady(
            f"no layer has attention: there are {options.depth} layers, and the first one would be {options.every}",
            expected=f"every from 1 to {options.depth}",
            got=options.every,
            do="choose a smaller every, or use the backbone zigma",
        )
    check_zigma(options, grid=grid, routes=routes)


def zigma_memory(
    options: ZigmaOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str, precision: str
) -> dict[str, int]:
    """The activation memory of ZigMa, in bytes by part. The residual stream, norms and modulation are in float32."""
    refuse_uncounted_memory(options)
    n, D, L = number_bytes(precision, backend), options.width, grid.tokens
    norm = WIDE * L * D * (1 if saved_memory(backend).norm_is_one_kernel else 2)
    modulation = n * 4 * D
    # the inputs of the scaling and of the gating, and the modulation
    layer = {"norm": norm, "adaln": WIDE * L * D + n * L * D + modulation}
    if backend_named(backend).fuses_residual:  # one operator between two mixers, which recomputes everything
        layer = {"norm": norm, "adaln": n * L * D + modulation}
    if backend_named(backend).fuses_modulation:  # norm and scaling are one operator, which recomputes its output
        layer = {"norm": WIDE * L * D, "adaln": n * L * D + n * 4 * D}
    setting: dict[str, Any] = {"grid": grid, "backend": backend, "precision": precision}
    known: dict[tuple[str, str], dict[str, int]] = {}
    keys = [(route.digest, repr(options.layer(number).mixer)) for number, route in enumerate(routes)]
    for number, (key, route) in enumerate(zip(keys, routes, strict=True)):
        if key not in known:
            known[key] = sum_by_name([layer, mixer_memory(options.layer(number), route=route, **setting)])
    ends = {"patch_embed": n * L * options.patch**2 * channels, "final": norm + WIDE * L * D + n * L * D}
    return sum_by_name([ends, *(known[key] for key in keys)])
