"""Translate the official `scan_type` of ZigMa to routes, as the official code runs it, which its names can contradict.

Source: CompVis/zigma (model_zigma.py, dis_mamba/mamba_ssm/modules/mamba_simple.py) at 37d837b.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from zigma_bench.errors import NotReady, UnknownName
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.curves import hilbert
from zigma_bench.scans.route import Route

NUMBERED = re.compile(r"(zigzagN|hilbertN|randomN|parallelN)(\d+)")
VIDEO = re.compile(r"(?:zzvideo|video)_([st]+)")  # the names in the current code, and in the code of the published runs
KNOWN = ("v2", "zigzagN1 to zigzagN8", "hilbertN1 to hilbertN8", "zzvideo_sst and similar")
REFUSED = {
    "randomN": "draws its orders without a seed and doesn't save them, so a checkpoint doesn't determine them",
    "parallelN": "has no forward pass in the official code",
}


@dataclass(frozen=True)
class OfficialScan:
    """The routes of all layers. `bidirectional`: each layer has two branches. `reversed_layers`: see ReversedInTime."""

    routes: tuple[Route, ...]
    bidirectional: bool = False
    reversed_layers: tuple[int, ...] = ()


def official_scan(scan_type: str, *, grid: Grid, depth: int) -> OfficialScan:
    """The routes of an official `scan_type`. UnknownName or NotReady if the official code can't run it."""
    if scan_type == "v2":
        return OfficialScan(_routes("bidirectional", grid, depth), bidirectional=True)
    if video := VIDEO.fullmatch(scan_type):
        order = video[1]
        late = tuple(i for i in range(depth) if order[i % len(order)] == "t")
        return OfficialScan(_routes("zigzag-video", grid, depth, order=order), reversed_layers=late)
    numbered = NUMBERED.fullmatch(scan_type)
    if numbered is None or (numbered[1] not in REFUSED and not 1 <= int(numbered[2]) <= 8):
        raise UnknownName("official scan_type", scan_type, KNOWN, where="config of zigma")
    if numbered[1] in REFUSED:
        raise NotReady(f"the official scan_type {scan_type} {REFUSED[numbered[1]]}", where="config of zigma")
    paths = int(numbered[2])
    if numbered[1] == "zigzagN":
        return OfficialScan(_routes("zigzag", grid, depth, paths=paths))
    times = [Route(hilbert(grid, layer % paths, paths=8, compatibility="zigma")) for layer in range(depth)]  # type: ignore[arg-type]
    return OfficialScan(tuple(times))


def _routes(name: str, grid: Grid, depth: int, **options: object) -> tuple[Route, ...]:
    spec = catalogue().get("scan", name)
    values = spec.resolve(options, where="config of zigma")
    return layer_routes(spec, grid=grid, depth=depth, options=values)


class ReversedInTime(nn.Module):
    """A mixer whose output frames are reversed in time: x [B, T*H*W, D] -> [B, T*H*W, D].

    The official temporal layers scan forwards but restore the order with the table of the backward scan, and vice
    versa.
    """

    def __init__(self, mixer: nn.Module, frames: int) -> None:
        super().__init__()
        self.mixer, self.frames = mixer, frames

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mixer(x)
        return y.reshape(len(y), self.frames, -1).flip(1).reshape(y.shape)
