"""Build the network of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zigma_bench.layers.init import initialise_network
from zigma_bench.ops.backends import resolve
from zigma_bench.plan import Cell, cell_routes
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid

if TYPE_CHECKING:
    from torch import nn


def build_network(cell: Cell, device_type: str) -> nn.Module:
    """Build the network of a cell with its initial weights, on the CPU, in float32.

    `device_type`: `cpu` or `cuda`; it determines the backend of the operators. CellFailed if the scan orders differ
    from the plan.
    """
    assert cell.backbone is not None, "a floor has no network"
    spec = catalogue().get("backbone", cell.backbone.name)
    options = spec.make_options(cell.backbone.options)
    grid = Grid.of_image(cell.height, cell.width, options.patch, cell.frames)
    routes = cell_routes(
        cell.scan, grid=grid, depth=options.depth, seed=cell.seed, catalogue=catalogue(), planned=cell.order_digests
    )
    backend = resolve(cell.backend, device_type)
    network: nn.Module = spec.load()(options, grid=grid, channels=cell.channels, routes=routes, backend=backend)
    initialise_network(network, cell.seed)
    return network
