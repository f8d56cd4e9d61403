"""A case: one network, launched in one way, on one batch and one grid; and the cell that describes it.

Doesn't import torch.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any, Literal

from zigma_bench.bench.fastest.networks import CHANNELS, Network
from zigma_bench.plan import Cell, cell_routes
from zigma_bench.plan.cells import NetworkCondition
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.suite import Efficiency, Reference, Sample, Train
from zigma_bench.suite.sections import TimedStage

Mode = Literal["inference", "training"]
CALLS: dict[Mode, TimedStage] = {"inference": "forward", "training": "train-step"}  # of efficiency/calls.py
CONFIDENCE = 0.95
ROUNDS_AGREE = 0.10  # as in an efficiency suite


@dataclass(frozen=True)
class Launch:
    """A way to launch the kernels: compiled by PyTorch or not, recorded as a CUDA graph or not."""

    name: str
    compiled: bool
    recorded: bool
    devices: tuple[str, ...]

    @property
    def suite_keys(self) -> dict[str, bool]:
        """The keys of a suite's `train` and `sample` that launch in this way."""
        return {key: True for key, value in (("compile", self.compiled), ("graph", self.recorded)) if value}


EAGER = Launch("eager", False, False, ("cpu", "cuda"))
LAUNCHES = (
    EAGER,
    Launch("graph", False, True, ("cuda",)),
    Launch("compiled", True, False, ("cuda",)),
    Launch("compiled graph", True, True, ("cuda",)),
)


def launches_on(device_type: str, *, compiled: bool) -> tuple[Launch, ...]:
    """The ways to launch on a type of device, either compiled or not."""
    return tuple(one for one in LAUNCHES if device_type in one.devices and one.compiled == compiled)


@dataclass(frozen=True)
class Case:
    """One thing to time."""

    network: Network
    launch: Launch
    batch: int
    grid: Grid

    @property
    def label(self) -> str:
        return f"{self.network.label}, {self.launch.name}, batch {self.batch:,}, {self.grid.tokens:,} tokens"


@dataclass(frozen=True)
class Timed:
    """The raw seconds of the counted calls of a case, and what was measured beside them.

    `peak_bytes` is None where it can't be measured. `attention`: the backends of PyTorch's scaled dot product attention
    that ran.
    """

    case: Case
    seconds: tuple[float, ...]
    first_call_seconds: float
    stable: bool
    peak_bytes: float | None
    parameters: int
    attention: tuple[str, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def interval(self) -> tuple[float, float]:
        """The distribution-free 95% interval of the median, from the order statistics of the calls."""
        return median_interval(self.seconds)

    @property
    def images_per_second(self) -> float:
        return self.case.batch / self.median

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "network": self.case.network.label, "launch": self.case.launch.name, "batch": self.case.batch,
            "grid": str(self.case.grid), "tokens": self.case.grid.tokens, "median_seconds": self.median,
            "interval_seconds": [low, high], "images_per_second": self.images_per_second, "seconds": list(self.seconds),
            "first_call_seconds": self.first_call_seconds, "stable": self.stable, "peak_bytes": self.peak_bytes,
            "parameters": self.parameters, "attention": list(self.attention),
        }  # fmt: skip


def merge_rounds(first: Timed, second: Timed) -> Timed:
    """Two timings of a case, at different times, as one. It is stable if both are and their medians agree."""
    medians = sorted((first.median, second.median))
    stable = first.stable and second.stable and medians[1] <= (1 + ROUNDS_AGREE) * medians[0]
    return replace(first, seconds=(*first.seconds, *second.seconds), stable=stable)


def median_interval(values: tuple[float, ...]) -> tuple[float, float]:
    """The narrowest interval between the k-th smallest and the k-th largest value that covers the median with 95%.

    It misses the median with the probability 2 P(X < k), X ~ Binomial(n, 1/2). Below six values it is their range,
    which covers less.
    """
    from scipy.special import bdtr

    ordered, n, k = sorted(values), len(values), 1
    while 2 * (k + 1) <= n and 2 * float(bdtr(k, n, 0.5)) <= 1 - CONFIDENCE:
        k += 1
    return ordered[k - 1], ordered[n - k]


def make_cell(case: Case, mode: Mode, catalogue: Catalogue) -> Cell:
    """The cell of a case, which builds its network and its timed call. NotReady if the grid doesn't fit."""
    network, grid = case.network, case.grid
    spec = catalogue.get("backbone", network.backbone.name)
    options = spec.make_options(network.backbone.options)
    routes = cell_routes(network.scan, grid=grid, depth=options.depth, seed=0, catalogue=catalogue)
    if spec.facts.check is not None:
        spec.facts.check(options, grid=grid, routes=routes)
    launch: dict[str, Any] = case.launch.suite_keys
    return Cell(
        suite="fastest", role="cell", smoke=False, backbone_label=network.label, scan_label=None,
        backbone=network.backbone, scan=network.scan, data=None, data_fingerprint="",
        channels=CHANNELS, height=grid.height * options.patch, width=grid.width * options.patch, frames=grid.frames,
        seed=0, order_digests=tuple(route.digest for route in routes),
        scanned_ratio=sum(route.scanned_ratio for route in routes) / len(routes) if routes else 0.0,
        backend=network.backend or "auto", train=Train(batch=case.batch, **launch), train_images=None,
        train_seconds=None, sample=Sample(**launch), reference=Reference(), quality=(),
        efficiency=Efficiency(stages=(CALLS[mode],), sample_batch=case.batch), parameters=0, forward_flops={},
        tokens=grid.tokens, metric_fingerprints=(), timed_alone=True,
        condition=_condition(spec.facts.condition(options)),
    )  # fmt: skip


def _condition(wanted: Any) -> NetworkCondition | None:
    """The condition of a network that needs one."""
    if wanted is None:
        return None
    if wanted.kind == "class":
        return NetworkCondition(kind="class", size=wanted.size, droppable=wanted.droppable)
    return NetworkCondition(kind="text", size=wanted.size, droppable=True, tokens=wanted.tokens)
