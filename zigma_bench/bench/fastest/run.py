"""Run `fastest`: find the networks, and time them in a worker process within the time budget. Doesn't import torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zigma_bench.bench.fastest.cases import Mode
from zigma_bench.bench.fastest.findings import Findings
from zigma_bench.bench.fastest.networks import find_networks
from zigma_bench.bench.fastest.process import WorkerProcess
from zigma_bench.bench.fastest.search import Search
from zigma_bench.errors import Interrupted, UsageError
from zigma_bench.ops.backends import BACKENDS
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.system.device import Device

MEMINFO = Path("/proc/meminfo")
SHARE_OF_FREE_MEMORY = 0.8  # of a CPU: more could end other programs


def find_fastest(
    device: Device,
    *,
    grid: Grid,
    batch: int,
    mode: Mode,
    memory_gib: float | None,
    seconds: float,
    provenance: Mapping[str, Any],
    on_progress: Callable[[str], None],
) -> Findings:
    """Rank the networks on a device. It takes about `seconds`, or less if everything is measured."""
    began = time.monotonic()
    limit = memory_limit(device, memory_gib)
    networks, refused = find_networks(catalogue(), device.type, grid, preferred_backend(device.type))
    with WorkerProcess(device, limit) as worker:
        left = seconds - (time.monotonic() - began)
        search = Search(networks, grid, batch, mode, device.type, worker.ask, left, on_progress)
        try:
            search.run()
        except KeyboardInterrupt:
            raise Interrupted("interrupted; nothing is kept of the timings") from None
    attention = search.attention
    return Findings(
        device, mode, batch, grid, limit, list(search.outcomes.values()), refused, search.crossings,
        None if attention is None else attention.network.label, list(search.late), time.monotonic() - began,
        worker.starts, provenance,
    )  # fmt: skip


def preferred_backend(device_type: str) -> str | None:
    """The backend that `auto` prefers on a type of device; it is timed first."""
    ranked = [one for one in BACKENDS.values() if one.auto_rank is not None and one.runs_on(device_type)]
    return min(ranked, key=lambda one: one.auto_rank or 0).name if ranked else None


def memory_limit(device: Device, gibibytes: float | None) -> int | None:
    """The bytes that a case may use: those of the option; else all of a GPU, or most of a CPU's free memory."""
    if gibibytes is not None:
        return int(gibibytes * 2**30)
    if device.type != "cpu" or not MEMINFO.exists():
        return None
    line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(SHARE_OF_FREE_MEMORY * 1024 * int(line.split()[1]))


def find_grid(tokens: int | None, text: str | None) -> Grid:
    """The grid of the options: the given one, or the most square one of so many tokens. UsageError if they differ."""
    if text is not None:
        try:
            grid = Grid.parse(text)
        except UsageError as error:
            raise error.at("--grid") from None
        if tokens is not None and grid.tokens != tokens:
            raise UsageError("--tokens and --grid differ", expected=f"{grid.tokens:,} for {grid}", got=f"{tokens:,}")
        return grid
    if tokens is None:
        raise UsageError(
            "the number of tokens is missing", expected="--tokens, such as 4096, or --grid, such as 90x160"
        )
    height = next(side for side in range(int(tokens**0.5), 0, -1) if tokens % side == 0)
    return Grid(height, tokens // height)
