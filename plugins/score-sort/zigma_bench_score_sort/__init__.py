"""Register the learned order `score-sort`, with the facts that a plan needs. Doesn't import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from zigma_bench import hookimpl
from zigma_bench.plugins.registry import Cost, LearnedScan
from zigma_bench.scans.grid import Grid


@dataclass(frozen=True)
class ScoreSortOptions:
    """The tokens of each image in order of rising score: a linear map of the token, plus its position in the raster."""

    position: Annotated[float, Ge(0)] = 1.0


def cost(options: ScoreSortOptions, *, width: int, grid: Grid) -> Cost:
    """A linear map D -> 1 without bias for each token."""
    return Cost(width, {"score": 2 * grid.tokens * width})


@hookimpl
def register_scans(register: Callable[..., None]) -> None:
    """One learned order, `score-sort`."""
    target = "zigma_bench_score_sort.sort:ScoreSort"
    register("score-sort", target, options=ScoreSortOptions, facts=LearnedScan(cost=cost))
