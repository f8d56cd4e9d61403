"""`scans gallery`: draw registered scans on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zigma_bench.cli.scans_common import Files, check_depth, route_panel, save_page
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import BrokenScan, Route

if TYPE_CHECKING:
    from zigma_bench.plugins.registry import Spec
    from zigma_bench.scans.pictures import Panel, PictureBlock

PANELS, SIZE, WIDTH = 4, 1.15, 13  # most panels of a scan; side of a panel and width of the page in inches
GRIDS = tuple(map(Grid.parse, ("16x16", "8x8", "9x9", "2x8x8")))  # tried if a scan refuses the requested grid


def gallery(names: Sequence[str], grid: str, *, depth: int, seed: int, wanted: Files) -> None:
    """Draw the named scans, or all registered scans sorted by name, on one page; `wanted` maps png and svg to files."""
    if not wanted:
        raise UsageError("nothing to write", expected="--png FILE or --svg FILE")
    check_depth(depth)
    from zigma_bench.scans import pictures

    requested = Grid.parse(grid)
    scans = catalogue().scans
    specs = [scans.get(name) for name in names] if names else list(scans)
    blocks = [_block(spec, requested, depth, seed) for spec in specs]
    title = "" if names else f"{len(blocks)} scans on {requested} tokens, options at their defaults"
    save_page(pictures.flow_page(blocks, size=SIZE, width=WIDTH, title=title), wanted)


def _block(spec: Spec, requested: Grid, depth: int, seed: int) -> PictureBlock:
    """The first distinct paths of a scan, on the nearest grid that it accepts, or the reason why there is none."""
    try:
        options = spec.resolve({}, where="gallery")
    except UsageError as error:
        return _refused(spec.name, requested, error.what)
    refusal = ""
    for grid in (requested, *_nearest(requested)):
        try:
            found = layer_routes(spec, grid=grid, depth=depth, seed=seed, options=options)
        except BrokenScan:
            raise
        except NotReady as error:
            refusal = refusal or error.what
            continue
        return _drawn(spec.name, found, grid, "" if grid == requested else f"on {grid}")
    return _refused(spec.name, requested, refusal)


def _nearest(requested: Grid) -> list[Grid]:
    """The other grids, nearest first: grids of the same kind (image or clip), then by the number of tokens."""
    others = [grid for grid in GRIDS if grid != requested]
    return sorted(
        others, key=lambda grid: (grid.video != requested.video, abs(math.log(grid.tokens / requested.tokens)))
    )


def _refused(name: str, grid: Grid, why: str) -> PictureBlock:
    from zigma_bench.scans.pictures import Panel, PictureBlock

    return PictureBlock((Panel(grid, note="not drawn"),), why, heading=name)


def _drawn(name: str, found: Sequence[Route], grid: Grid, note: str) -> PictureBlock:
    """The first distinct paths, captioned with their number."""
    from zigma_bench.scans.pictures import PictureBlock

    panels = [route_panel(grid, found[0], 0)] if found[0].learned else _distinct(found, grid)
    count = f"{PANELS} of {len(panels)} paths" if len(panels) > PANELS else ""
    return PictureBlock(tuple(panels[:PANELS]), ", ".join(filter(None, (note, count))), heading=name)


def _distinct(found: Sequence[Route], grid: Grid) -> list[Panel]:
    """The distinct paths of all layers; paths with other segments count as distinct."""
    paths: dict[bytes, Panel] = {}
    for route in dict.fromkeys(found):
        for k, path in enumerate(route.paths):
            resets = b"" if route.segments is None else route.segments[k].tobytes()
            paths.setdefault(path.tobytes() + b"|" + resets, route_panel(grid, route, k))
    return list(paths.values())
