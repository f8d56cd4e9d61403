"""Statistics and drawings of orders, against figures worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zigma_bench import scans
from zigma_bench.grid import Grid
from zigma_bench.registry import scan_spec
from zigma_bench.scans.analysis import coverage, show_json, statistics
from zigma_bench.scans.draw import draw_path, draw_route, rich_path, rich_route
from zigma_bench.scans.layers import routes
from zigma_bench.scans.route import Route


def layers(name: str, grid: Grid, depth: int = 8, **options) -> tuple[Route, ...]:
    spec = scan_spec(name, getattr(scans, name), owner="zigma-bench")
    return routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve(options, where="test"))


def test_statistics_of_a_small_order():
    """0 1 / 2 3 visited 0, 3, 1, 2: a diagonal step, one up, and a diagonal step."""
    found = statistics(Route([0, 3, 1, 2]), Grid(2, 2))
    assert (found.neighbour4_share, found.neighbour8_share) == (1 / 3, 1.0)
    assert (found.mean_step, found.largest_step, found.scanned_ratio) == (5 / 3, 2, 1.0)
    assert found.digest == Route([0, 3, 1, 2]).digest


def test_statistics_are_over_all_paths():
    found = statistics(Route([[0, 1, 2, 3], [0, 2, 1, 3]]), Grid(1, 4))
    assert (found.neighbour4_share, found.mean_step, found.largest_step, found.scanned_ratio) == (4 / 6, 8 / 6, 2, 2.0)


def test_statistics_of_a_clip_count_a_frame_as_a_step():
    found = statistics(Route([0, 2, 1, 3]), Grid(1, 2, frames=2))
    assert (found.neighbour4_share, found.largest_step) == (2 / 3, 2)


def test_one_token_has_no_steps():
    found = statistics(Route([0]), Grid(1, 1))
    assert found.mean_step is found.largest_step is found.neighbour4_share is None
    assert coverage([Route([0])], Grid(1, 1)) == (None,)


def test_coverage_over_layers():
    """On 3 x 3 a raster joins the 6 horizontal pairs of 12; rows and columns together all of them."""
    grid = Grid(3, 3)
    assert coverage(layers("raster", grid, 3), grid) == (0.5, 0.5, 0.5)
    assert coverage(layers("sweep", grid, 4), grid) == (0.5, 1.0, 1.0, 1.0)
    assert coverage(layers("raster", grid, 2), grid, directed=True) == (0.25, 0.25)
    assert coverage(layers("sweep", grid, 8), grid, directed=True)[-1] == 1.0
    assert coverage(layers("zigzag", grid, 2), grid) == (8 / 12, 1.0)
    assert coverage(layers("raster", Grid(2, 2, frames=2), 1), Grid(2, 2, frames=2)) == (4 / 12,)


@pytest.mark.parametrize("grid", [Grid(2, 3), Grid(1, 2, frames=2)])
def test_show_json(grid):
    found = json.loads(json.dumps(show_json(layers("bidirectional", grid, 2), grid), allow_nan=False))
    assert found["grid"] == ([2, 1, 2] if grid.video else [2, 3])
    assert len(found["layers"]) == 2
    layer = found["layers"][1]
    assert list(layer) == ["paths", "merge", "share", "stats"]
    assert layer["paths"] == [list(range(grid.tokens)), list(range(grid.tokens))[::-1]]
    assert (layer["merge"], layer["share"]) == ("sum", "separate")
    assert layer["stats"]["scanned_ratio"] == 2.0


def test_a_serpentine_drawn():
    assert draw_path(layers("zigzag", Grid(3, 4))[0].paths[0], Grid(3, 4)) == ["o→ → → ↓", " ↓ ← ← ←", " → → → #"]


def test_jumps_are_marked_where_they_leave_and_land():
    assert draw_path(layers("raster", Grid(2, 3))[0].paths[0], Grid(2, 3)) == ["o→ → *", ">→ → #"]


def test_diagonals_frames_and_a_single_token():
    assert draw_path(np.array([0, 3, 1, 2]), Grid(2, 2)) == ["o↘ ↙", " # ↑"]
    assert draw_path(np.array([0, 2, 3, 1]), Grid(1, 2, frames=2)) == ["o+ #", "    ", " → +"]
    assert draw_path(np.array([0]), Grid(1, 1)) == ["o#"]


def test_paths_side_by_side():
    (route,) = set(layers("bidirectional", Grid(2, 3)))
    assert draw_route(route, Grid(2, 3)).splitlines() == ["0        1", "o→ → *    # ←>←", ">→ → #    * ←o←"]


def test_a_large_drawing_has_one_line_a_row():
    lines = draw_path(layers("zigzag", Grid(8, 12))[5].paths[0], Grid(8, 12))
    assert [len(line) for line in lines] == [24] * 8
    assert "".join(lines).count("o") == "".join(lines).count("#") == 1
    assert not any("*" in line or ">" in line for line in lines)


def test_colour_runs_from_early_to_late():
    grid = Grid(2, 3)
    route = layers("zigzag", grid)[0]
    lines = rich_path(route.paths[0], grid)
    assert [line.plain for line in lines] == draw_path(route.paths[0], grid)
    colours = [str(span.style) for line in lines for span in line.spans]
    assert colours[0] == "#3c5aff"
    assert colours[3] == "#ff5a3c", "the row below is read backwards, so its first cell is the last"
    assert len(set(colours)) == 6
    assert [line.plain.rstrip() for line in rich_route(route, grid)] == draw_route(route, grid).splitlines()
