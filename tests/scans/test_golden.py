"""The built-in orders equal those that the published code computes, on every grid that is stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zigma_bench import scans
from zigma_bench.grid import Grid
from zigma_bench.registry import scan_spec
from zigma_bench.scans.layers import routes

GOLDEN = json.loads((Path(__file__).parent / "golden" / "published.json").read_text())
ROOT = Path(__file__).resolve().parents[2]


def orders(name: str, grid: Grid | str, depth: int = 8, **options) -> list[list[list[int]]]:
    """Each layer's paths of a built-in scan, as lists."""
    grid = Grid.parse(grid) if isinstance(grid, str) else grid
    spec = scan_spec(name, getattr(scans, name), owner="zigma-bench")
    values = spec.resolve(options, where="test")
    return [route.paths.tolist() for route in routes(spec, grid=grid, depth=depth, seed=0, options=values)]


def cases(*keys: str) -> list[tuple[str, str]]:
    return [(key, grid) for key in keys for grid in GOLDEN[key]]


@pytest.mark.parametrize(("key", "grid"), cases("zigzagN1", "zigzagN2", "zigzagN4", "zigzagN8", "zigzag8_rect"))
def test_zigzag_is_zigmas(key, grid):
    paths = len(GOLDEN[key][grid])
    assert paths == (8 if key == "zigzag8_rect" else int(key[-1]))
    assert orders("zigzag", grid, depth=paths, paths=paths) == [[path] for path in GOLDEN[key][grid]]


@pytest.mark.parametrize("paths", [1, 2, 4, 8])
def test_zigzags_schedule_over_24_layers_is_zigmas(paths):
    schedule = GOLDEN["schedule"][f"zigzagN{paths}"]["depth24"]
    assert len(schedule) == 24
    assert orders("zigzag", "4x4", depth=24, paths=paths) == [
        [GOLDEN["zigzagN8"]["4x4"][number]] for number in schedule
    ]


@pytest.mark.parametrize("grid", list(GOLDEN["inverse_zigzagN8"]))
def test_the_derived_inverse_is_zigmas(grid):
    spec = scan_spec("zigzag", scans.zigzag, owner="zigma-bench")
    found = routes(spec, grid=Grid.parse(grid), depth=8, seed=0, options={"paths": 8})
    assert [route.inverse[0].tolist() for route in found] == GOLDEN["inverse_zigzagN8"][grid]


@pytest.mark.parametrize("grid", list(GOLDEN["sweep_8"]))
def test_sweep_is_dimsums(grid):
    found = [paths[0] for paths in orders("sweep", grid)]
    assert set(map(tuple, found)) == set(map(tuple, GOLDEN["sweep_8"][grid]))
    assert found == GOLDEN["sweep_8"][grid], "DiMSUM happens to number them as ZigMa does"


def by_the_table(height: int, width: int, number: int, *, serpentine: bool) -> list[int]:
    """ZigMa's table, cell by cell: corner (r0, c0) with directions (dr, dc), rows or columns."""
    corners = [(0, 0, 1, 1), (0, width - 1, 1, -1), (height - 1, 0, -1, 1), (height - 1, width - 1, -1, -1)]
    r0, c0, dr, dc = corners[number // 2]
    outer, inner = (width, height) if number % 2 else (height, width)
    path = []
    for i in range(outer):
        for j in range(inner):
            k = inner - 1 - j if serpentine and i % 2 else j
            r, c = (k, i) if number % 2 else (i, k)
            path.append((r0 + dr * r) * width + c0 + dc * c)
    return path


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 5), Grid(4, 1), Grid(3, 5), Grid(6, 4), Grid(8, 12), Grid(7, 7)])
@pytest.mark.parametrize("scan", ["sweep", "zigzag"])
def test_the_table_on_any_rectangle(scan, grid):
    table = [by_the_table(grid.height, grid.width, n, serpentine=scan == "zigzag") for n in range(8)]
    for paths in (1, 2, 4, 8):
        assert orders(scan, grid, depth=10, paths=paths) == [[table[layer % paths]] for layer in range(10)]


@pytest.mark.parametrize(("key", "grid"), cases("v2", "bimamba_v2", "video_v2"))
def test_bidirectional_is_vision_mambas(key, grid):
    assert orders("bidirectional", grid, depth=2) == [GOLDEN[key][grid]] * 2
    forward, backward = GOLDEN[key][grid]
    assert orders("bidirectional", grid, depth=3, mode="layerwise") == [[forward], [backward], [forward]]


@pytest.mark.parametrize("grid", list(GOLDEN["v1"]))
def test_raster_is_v1(grid):
    assert orders("raster", grid, depth=2) == [GOLDEN["v1"][grid]] * 2 == orders("sweep", grid, depth=2, paths=1)


def test_the_stored_orders_are_those_of_the_shared_reference():
    reference = ROOT / ".." / "shared" / "reference" / "golden" / "zigma_paths.json"
    if not reference.exists():
        pytest.skip("the shared reference data does not lie beside the repository")
    official = json.loads(reference.read_text())
    for key in ("zigzagN1", "zigzagN2", "zigzagN4", "zigzagN8"):
        assert GOLDEN[key] == official[key]


def test_golden_paths_are_not_all_involutions():
    """Else a swap of a path and its inverse would pass every test above."""
    paths = np.array(GOLDEN["zigzagN8"]["4x4"])
    assert any(not np.array_equal(path[path], np.arange(16)) for path in paths)
