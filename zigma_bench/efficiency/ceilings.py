"""Measure upper limits for a network on a device in the same process: a matrix product, a copy, and the scan alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from zigma_bench.bench.cases import STATES, Shape, check_against_naive, operator_call, random_inputs
from zigma_bench.bench.ops import copy_bytes_per_second, least_bytes
from zigma_bench.efficiency.timing import time_calls, timed_call
from zigma_bench.layers.speed import record_graph
from zigma_bench.ops.backends import resolve
from zigma_bench.plan import Cell, cell_routes
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.system.device import Device

SIDE = {"cpu": 1024, "cuda": 8192}
PRODUCTS = 7
SCANS, LAUNCHED_BY = 20, 2e-3  # a scan shorter than LAUNCHED_BY seconds is timed in a CUDA graph of SCANS scans
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(cell: Cell, device: Device) -> torch.dtype:
    """The precision of the matrix products of a cell."""
    chosen = cell.train.precision
    if chosen == "auto":
        chosen = "bf16" if device.type == "cuda" else "fp32"
    return DTYPES[chosen]


def measure_ceilings(cell: Cell, device: Device) -> dict[str, float]:
    """FLOP/s of a large matrix product in the cell's precision, and bytes per second read and written by a copy."""
    return {
        "matmul_flops_per_second": matmul_flops_per_second(device, dtype_of(cell, device)),
        "copy_bytes_per_second": copy_bytes_per_second(device),
    }


def matmul_flops_per_second(device: Device, dtype: torch.dtype) -> float:
    """The median FLOP/s over some products of two square matrices of Gaussian numbers."""
    side = SIDE[device.type]
    left, right = (torch.randn(side, side, device=device.name).to(dtype) for _ in range(2))
    times = [timed_call(lambda: left @ right, device) for _ in range(PRODUCTS)]
    seconds = [by_wall if by_card is None else by_card for by_wall, by_card in times[2:]]
    return 2 * side**3 / statistics.median(seconds)


def scan_alone(cell: Cell, device: Device, repeats: int, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Bytes per second of the selective scan with the cell's batch, tokens and channels, along its first layer's path.

    Only the forward pass is timed, and only the least possible bytes count: each input read once, the output written
    once. The result is a reason instead for a cell that doesn't have Mamba's scan with 16 states along one path over
    all tokens. Raises CellFailed if the scan computes wrong values.
    """
    if (reason := _why_no_scan(cell)) is not None:
        return {"why_not": reason}
    assert cell.backbone is not None
    options = catalogue().get("backbone", cell.backbone.name).make_options(cell.backbone.options)
    backend, dtype = resolve(cell.backend, device.type), dtype_of(cell, device)
    check_against_naive("scan", backend, device=device.name, dtype=dtype)
    shape = Shape(cell.train.batch, cell.tokens, options.inner)
    path = torch.from_numpy(_first_route(cell).paths[0].copy()).to(device.name)
    tensors = random_inputs("scan", shape, device=device.name, dtype=dtype)
    with torch.no_grad():
        run, count = _without_launches(lambda: operator_call("scan", backend, tensors, path), device)
        timing = time_calls(run, repeats, device, stopped)
    seconds = statistics.median(timing.device_seconds or timing.seconds) / count
    moved = least_bytes("scan", shape, dtype, backward=False)
    return {
        "bytes": moved, "bytes_per_second": moved / seconds, "shape": str(shape), "scans_a_call": count,
        **timing.details(),
    }  # fmt: skip


def _without_launches(scan: Callable[[], object], device: Device) -> tuple[Callable[[], object], int]:
    """The function to time, and the number of scans in it. On a GPU that runs a scan faster than the host launches it,
    this is a CUDA graph of several scans."""
    if device.type != "cuda":
        return scan, 1
    scan()
    _, seconds = timed_call(scan, device)
    assert seconds is not None
    if seconds > LAUNCHED_BY:
        return scan, 1

    def several() -> None:
        for _ in range(SCANS):
            scan()

    graph, _ = record_graph(several, "the scan alone")
    return graph.replay, SCANS


def _why_no_scan(cell: Cell) -> str | None:
    assert cell.backbone is not None
    mixer = cell.backbone.options.get("mixer")
    if cell.scan is None or mixer is None or mixer["name"] != "mamba":
        return "this network has no selective scan of Mamba"
    if cell.backbone.options["state"] != STATES:
        return f"the scan alone is only timed with {STATES} states"
    if cell.train.precision == "fp16":
        return "the scan alone is only timed in fp32 and bf16"
    route = _first_route(cell)
    if route.K != 1 or not route.bijective or route.learned is not None:
        return "the scan alone is only timed along one path over all tokens, and the first layer has another route"
    return None


def _first_route(cell: Cell) -> Route:
    assert cell.backbone is not None
    options = catalogue().get("backbone", cell.backbone.name).make_options(cell.backbone.options)
    grid = Grid.of_image(cell.height, cell.width, options.patch, cell.frames)
    return cell_routes(
        cell.scan, grid=grid, depth=options.depth, seed=cell.seed, catalogue=catalogue(), planned=cell.order_digests
    )[0]
