"""Register the mixer `v2m`, with the facts that a plan needs. Doesn't import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zigma_bench import hookimpl
from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import Cost, MixerFacts
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route


@dataclass(frozen=True)
class V2mOptions:
    """A 2-D recurrence: a state along each row, then down each column, from one, two or four corners, summed."""

    corners: Literal[1, 2, 4] = 4


def cost(options: V2mOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> Cost:
    """One layer. The scan has 7 FLOPs per token, channel and state along rows, as Mamba's, and 4 down columns."""
    D, E, N, R, L = block.width, block.inner, block.state, block.dt_rank, grid.tokens
    parameters = 3 * D * E + 9 * E + E + E * (R + 2 * N) + R * E + E + 2 * E * N + E
    flops = {
        "in_proj": 4 * L * D * E,
        "conv": 2 * L * E * 9,
        "x_proj": 2 * L * E * (R + 2 * N),
        "dt_proj": 2 * L * R * E,
        "scan": options.corners * 11 * L * E * N,
        "out_proj": 2 * L * E * D,
    }
    return Cost(parameters, flops)


def check(options: V2mOptions, *, block: ZigmaOptions, grid: Grid, route: Route) -> None:
    """Raise NotReady for clips and for any scan except raster."""
    raster = Route(np.arange(grid.tokens))
    if route != raster or grid.video:
        raise NotReady(
            "the mixer v2m works on the grid of a single image and follows no scan",
            expected="the scan raster",
            do="set the scan to raster",
        )


@hookimpl
def register_mixers(register: Callable[..., None]) -> None:
    """One mixer, `v2m`."""
    register("v2m", "zigma_bench_v2m.mixer:V2mMixer", options=V2mOptions, facts=MixerFacts(cost=cost, check=check))
