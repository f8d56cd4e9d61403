"""Statistics and drawings of orders, against figures worked out by hand."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.analysis import grid_distance, neighbour_coverage, route_statistics, sequence_distance, show_json
from zigma_bench.scans.draw import LEARNED, draw_path, draw_route, rich_path, rich_route
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import LearnedOrder, Route


def layers(name: str, grid: Grid, depth: int = 8, **options) -> tuple[Route, ...]:
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve(options, where="test"))


def test_statistics_of_a_small_order():
    """0 1 / 2 3 visited 0, 3, 1, 2: a diagonal step, one up, and a diagonal step."""
    found = route_statistics(Route([0, 3, 1, 2]), Grid(2, 2))
    assert (found.neighbour4_share, found.neighbour8_share) == (1 / 3, 1.0)
    assert (found.mean_step, found.largest_step, found.scanned_ratio) == (5 / 3, 2, 1.0)
    assert found.digest == Route([0, 3, 1, 2]).digest


def test_statistics_are_over_all_paths():
    found = route_statistics(Route([[0, 1, 2, 3], [0, 2, 1, 3]]), Grid(1, 4))
    assert (found.neighbour4_share, found.mean_step, found.largest_step, found.scanned_ratio) == (4 / 6, 8 / 6, 2, 2.0)


def test_statistics_of_a_clip_count_a_frame_as_a_step():
    found = route_statistics(Route([0, 2, 1, 3]), Grid(1, 2, frames=2))
    assert (found.neighbour4_share, found.largest_step) == (2 / 3, 2)


def test_one_token_has_no_steps():
    found = route_statistics(Route([0]), Grid(1, 1))
    assert found.mean_step is found.largest_step is found.neighbour4_share is None
    assert neighbour_coverage([Route([0])], Grid(1, 1)) == (None,)


def test_coverage_over_layers():
    """On 3 x 3 a raster joins the 6 horizontal pairs of 12; rows and columns together all of them."""
    grid = Grid(3, 3)
    assert neighbour_coverage(layers("raster", grid, 3), grid) == (0.5, 0.5, 0.5)
    assert neighbour_coverage(layers("sweep", grid, 4), grid) == (0.5, 1.0, 1.0, 1.0)
    assert neighbour_coverage(layers("raster", grid, 2), grid, directed=True) == (0.25, 0.25)
    assert neighbour_coverage(layers("sweep", grid, 8), grid, directed=True)[-1] == 1.0
    assert neighbour_coverage(layers("zigzag", grid, 2), grid) == (8 / 12, 1.0)
    assert neighbour_coverage(layers("raster", Grid(2, 2, frames=2), 1), Grid(2, 2, frames=2)) == (4 / 12,)


ORDER = LearnedOrder("module:Order", {"k": 2}, 0, 1, cost=dict, load=dict, make_options=dict)
LEARNED_ROUTE = Route(range(4), learned=ORDER)
WINDOWS = Route([0, 1, 4, 5, 2, 3, 6, 7], segments=[4, 4])  # 2 x 4 as two windows of 2 x 2
HALVES = Route([[0, 1, 4, 5], [2, 3, 6, 7]], merge="scatter")  # the same, each window a path
PADDED = Route([0, -1, 1, 2, 3], pads=[0])


def test_pads_break_steps_and_lengthen_the_sequence():
    """On 1 x 4 visited 0, pad, 1, 2, 3: two steps; 0 and 1 lie 2 apart in the sequence, so pairs are 2, 1, 1 apart."""
    found = route_statistics(PADDED, Grid(1, 4))
    assert (found.pads, found.scanned_ratio) == (1, 1.25)
    assert (found.neighbour4_share, found.mean_step, found.largest_step) == (1.0, 1.0, 1)
    assert found.sequence_distance == {"1": 4 / 3, "2": 2.5}
    assert found.grid_distance == {"1": 1.0, "2": 1.5, "4": 3.0}
    assert neighbour_coverage([PADDED], Grid(1, 4)) == (2 / 3,)


def test_segments_end_steps_and_distances():
    """Two windows of 2 x 2, each read 0 1 / 2 3: steps 1, 2, 1 in each; the step between the windows is none."""
    found = route_statistics(WINDOWS, Grid(2, 4))
    assert (found.neighbour4_share, found.neighbour8_share) == (2 / 3, 1.0)
    assert (found.mean_step, found.largest_step, found.pads) == (4 / 3, 2, 0)
    assert found.sequence_distance == {"1": 1.5, "2": 2.0}, "no pair of one window lies 4 apart"
    assert found.grid_distance == {"1": 4 / 3, "2": 1.0}
    assert neighbour_coverage([WINDOWS], Grid(2, 4)) == (4 / 10,)


def test_a_scatter_is_like_segments():
    grid = Grid(2, 4)
    one, other = route_statistics(WINDOWS, grid).to_json(), route_statistics(HALVES, grid).to_json()
    assert one.pop("digest") != other.pop("digest")
    assert one == other
    assert neighbour_coverage([HALVES, WINDOWS], grid) == (0.4, 0.4)


def test_a_path_of_which_segments_are_single_tokens_has_no_steps():
    found = route_statistics(Route(range(4), segments=[1, 1, 1, 1]), Grid(2, 2))
    assert found.mean_step is found.largest_step is found.neighbour8_share is None
    assert found.sequence_distance == found.grid_distance == {}


def test_locality_of_a_raster():
    """On 4 x 4 half of the neighbours are 1 apart and half 4; two steps on is 2 right, or 1 down and 2 left."""
    (route,) = set(layers("raster", Grid(4, 4)))
    found = route_statistics(route, Grid(4, 4))
    assert found.sequence_distance["1"] == 2.5
    assert list(found.sequence_distance) == ["1", "2", "4"]
    assert found.grid_distance["1"] == found.mean_step == (12 * 1 + 3 * 4) / 15
    assert found.grid_distance["2"] == (8 * 2 + 6 * 3) / 14
    assert found.grid_distance["4"] == 1.0


def test_locality_is_over_all_pairs_of_any_grid():
    """Against a plain count over all pairs of tokens, on a picture and a clip, of two random paths."""
    for grid in (Grid(5, 7), Grid(3, 4, frames=3), Grid(1, 9), Grid(9, 1)):
        random = np.random.default_rng(0)
        route = Route([random.permutation(grid.tokens), random.permutation(grid.tokens)])
        at = np.stack(np.unravel_index(np.arange(grid.tokens), (grid.frames, grid.height, grid.width)), -1)
        far = np.abs(at[:, None] - at[None]).sum(-1)
        apart = np.stack([np.abs(when[:, None] - when[None]) for when in route.inverse])
        both = np.broadcast_to(far, apart.shape)
        near = {str(d): apart[both == d].mean() for d in (1, 2, 3, 4, 8) if (far == d).any()}
        assert sequence_distance(route, grid, (1, 2, 3, 4, 8)) == pytest.approx(near)
        along = {str(n): both[apart == n].mean() for n in (1, 2, 4, 8)}
        assert grid_distance(route, grid, (1, 2, 4, 8)) == pytest.approx(along)


def test_a_learned_order_has_no_statistics():
    grid = Grid(2, 2)
    assert route_statistics(LEARNED_ROUTE, grid) is None
    assert neighbour_coverage([WINDOWS, LEARNED_ROUTE, WINDOWS], Grid(2, 4)) == (0.4, None, None)
    found = show_json([LEARNED_ROUTE], grid)
    (layer,) = found["layers"]
    assert layer["stats"] is None
    assert layer["learned"] == {"target": "module:Order", "options": {"k": 2}, "layer": 0, "depth": 1}
    assert draw_route(LEARNED_ROUTE, grid) == LEARNED


def test_show_json_of_all_that_a_route_says():
    features = [[0, 1, 0], [1, 0, 1]]
    paths = [[0, -1, 1], [1, -1, 0]]
    route = Route(paths, "cascade", segments=[[2, 1], [1, 2]], pads=[[0], [1]], step_feature=features)
    (layer,) = json.loads(json.dumps(show_json([route], Grid(1, 2))))["layers"]
    assert layer["paths"] == [[0, -1, 1], [1, -1, 0]]
    assert (layer["segments"], layer["pads"], layer["stages"]) == ([[2, 1], [1, 2]], [[0], [1]], [1, 1])
    assert layer["step_feature"] == features
    assert layer["stats"]["pads"] == 2
    assert layer["stats"]["mean_step"] is None


@pytest.mark.parametrize("grid", [Grid(2, 3), Grid(1, 2, frames=2)])
def test_show_json(grid):
    found = json.loads(json.dumps(show_json(layers("bidirectional", grid, 2), grid), allow_nan=False))
    assert found["grid"] == ([2, 1, 2] if grid.video else [2, 3])
    assert len(found["layers"]) == 2
    layer = found["layers"][1]
    keys = ["paths", "segments", "merge", "share", "pads", "step_feature", "stages", "learned", "stats"]
    assert list(layer) == keys
    assert found["coverage"] == list(neighbour_coverage(layers("bidirectional", grid, 2), grid))
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


def test_resets_pads_and_cells_of_other_paths_are_drawn():
    assert draw_route(WINDOWS, Grid(2, 4)).splitlines() == ["0", "o→ ↙[→ ↙", " → ] → #"]
    assert draw_route(HALVES, Grid(2, 4)).splitlines() == ["0          1", "o→ ↙. .    . . o→ ↙", " → #. .    . .  → #"]
    assert draw_route(PADDED, Grid(1, 4)).splitlines() == ["0", "o~~→ → #"]
    nothing = Route([[0, 1], [-1, -1]], merge="scatter")
    assert draw_route(nothing, Grid(1, 2)).splitlines() == ["0      1", "o→ #   . ."]


def test_a_pad_at_the_end_of_a_segment_is_a_reset():
    assert draw_route(Route([0, -1, 1, 2], segments=[2, 2]), Grid(1, 3)).splitlines() == ["0", "o][→ #"]


def test_paths_that_do_not_fit_a_line_go_below():
    lines = [line.plain.rstrip() for line in rich_route(HALVES, Grid(2, 4), width=18)]
    assert lines == ["0", "o→ ↙. .", " → #. .", "1", ". . o→ ↙", ". .  → #"]
    assert len(rich_route(HALVES, Grid(2, 4), width=19)) == 3
    assert len(rich_route(HALVES, Grid(2, 4), width=1)) == 6


def test_a_large_grid_takes_less_than_a_second():
    grid = Grid(256, 256)
    route = Route(np.random.default_rng(0).permutation(grid.tokens), segments=[grid.tokens // 4] * 4)
    started = time.process_time()
    assert route_statistics(route, grid) is not None
    assert time.process_time() - started < 1
