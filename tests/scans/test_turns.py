"""Paths that the layers follow in turn: their assignment, and the pairs of orders that differ only in continuity."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zigma_bench.errors import NotReady
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import scan_spec
from zigma_bench.scans.analysis import route_statistics
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.spirals import border_path
from zigma_bench.scans.route import Route
from zigma_bench.scans.turns import count_paths_in_turn, paths_in_turn

GRID, SQUARE = Grid(4, 6), Grid(8, 8)
IN_TURN = [
    ("sweep", {}, 8), ("sweep", {"paths": 4}, 4), ("zigzag", {"paths": 3}, 3), ("hilbert", {"paths": 8}, 8),
    ("hilbert-inverse", {"paths": 8}, 8), ("diagonal", {"paths": 4}, 4), ("jpeg", {"paths": 8}, 8),
    ("morton", {"paths": 2}, 2), ("peano", {"paths": 8}, 8), ("spiral", {"turns": 8}, 8), ("diffma", {}, 8),
    ("border-spiral", {"paths": 8}, 8), ("four-corners", {}, 4), ("mamba-nd", {}, 4), ("random", {"paths": 3}, 3),
    ("bidirectional", {"mode": "layerwise"}, 2), ("locality-matched", {"paths": 2}, 2),
]  # fmt: skip


def layers(name: str, depth: int, grid: Grid = GRID, **options) -> tuple[Route, ...]:
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve(options, where="test"))


@pytest.mark.parametrize(("name", "options", "count"), IN_TURN)
def test_the_declared_paths_are_those_in_turn(name, options, count):
    assert count_paths_in_turn(catalogue().get("scan", name).load(), SQUARE, options) == count
    found = layers(name, 2 * count, SQUARE, **options)
    assert len(set(found[:count])) == count
    assert found[count:] == found[:count]


@pytest.mark.parametrize(("name", "options", "count"), IN_TURN)
def test_a_reversed_assignment_goes_through_the_same_paths_from_the_last(name, options, count):
    cyclic = layers(name, 2 * count + 1, **options)
    backwards = layers(name, 2 * count + 1, **options, assignment="reversed")
    assert backwards == tuple(cyclic[count - 1 - layer % count] for layer in range(2 * count + 1))


def test_the_frames_of_a_clip_enter_the_count():
    scan = catalogue().get("scan", "mamba-nd").load()
    assert count_paths_in_turn(scan, Grid(3, 4, 2), {}) == 6


@pytest.mark.parametrize(
    ("name", "options"),
    [("zigzag", {"mode": "parallel"}), ("random", {}), ("bidirectional", {}), ("morton", {"paths": 1})],
)
def test_without_several_paths_in_turn_there_is_nothing_to_reverse(name, options):
    with pytest.raises(NotReady, match=r"can't be assigned in reverse.*expected assignment: cyclic"):
        layers(name, 2, **options, assignment="reversed")


def test_scans_without_paths_in_turn_declare_none():
    for name in ("raster", "cross-scan", "dim"):
        scan = catalogue().get("scan", name)
        assert count_paths_in_turn(scan.load(), GRID, {}) is None
        assert "assignment" not in {option.name for option in scan.options}


def test_a_scan_of_ones_own_declares_its_paths():
    @paths_in_turn(lambda grid, options: options["shifts"])
    def shifted(grid: Grid, layer: int, seed: int, *, shifts: Literal[1, 3] = 3):
        """Raster from another token in each of `shifts` layers."""
        return np.roll(np.arange(grid.tokens), layer % shifts + seed)

    spec = scan_spec("shifted", shifted, owner="test")
    assert [option.name for option in spec.options] == ["shifts", "assignment"]
    assert spec.options[1].type_text == "cyclic | reversed"
    values = spec.resolve({"assignment": "reversed"}, where="test")
    firsts = [int(route.paths[0, 0]) for route in layer_routes(spec, grid=GRID, depth=4, seed=0, options=values)]
    assert firsts == [22, 23, 0, 22]


FACTORIAL = {  # coverage: a discontinuous order and its continuous partner
    "one way": (("raster", {}), ("zigzag", {"paths": 1})),
    "two ways": (
        ("bidirectional", {"mode": "layerwise"}), ("bidirectional", {"mode": "layerwise", "continuous": True}),
    ),
    "both axes": (("sweep", {"paths": 8}), ("zigzag", {"paths": 8})),
    "both axes in four layers": (("four-corners", {}), ("four-corners", {"continuous": True})),
}  # fmt: skip


def lines_of(route: Route, grid: Grid) -> list[tuple[int, ...]]:
    """The tokens of each line in sequence, whatever the direction within it."""
    path = route.paths[0]
    across = abs(path[1] - path[0]) == 1
    return [tuple(sorted(line)) for line in path.reshape(-1, grid.width if across else grid.height).tolist()]


@pytest.mark.parametrize("coverage", FACTORIAL)
@pytest.mark.parametrize("grid", [GRID, Grid(8, 8), Grid(5, 7)])
def test_partners_differ_only_in_continuity(coverage, grid):
    jumping, continuous = (layers(name, 8, grid, **options) for name, options in FACTORIAL[coverage])
    for one, other in zip(jumping, continuous, strict=True):
        assert one.K == other.K == 1
        assert one.scanned_ratio == other.scanned_ratio == 1
        assert lines_of(one, grid) == lines_of(other, grid)
        assert one.paths[0, 0] == other.paths[0, 0] or coverage == "two ways", "an odd last row ends at the other side"
        assert route_statistics(one, grid).largest_step > 1
        assert route_statistics(other, grid).largest_step == 1
    assert [len(set(found)) for found in (jumping, continuous)] == [
        {"one way": 1, "two ways": 2, "both axes": 8, "both axes in four layers": 4}[coverage]
    ] * 2


@pytest.mark.parametrize("name", ["four-corners", "bidirectional", "sweep"])
def test_orders_of_two_ways_contain_the_reverse_of_each_path(name):
    found = layers(name, 8, **({"mode": "layerwise"} if name == "bidirectional" else {}))
    paths = {route.paths[0].tobytes() for route in found}
    assert {route.paths[0][::-1].tobytes() for route in found} == paths


def test_four_corners_are_vmambas_rotations_by_layers():
    (rotations,) = set(layers("cross-scan", 2, mode="rotate"))
    assert [route.paths[0].tolist() for route in layers("four-corners", 4)] == rotations.paths.tolist()
    assert [int(route.paths[0, 0]) for route in layers("four-corners", 4)] == [0, 5, 23, 18]


def test_the_border_spiral_of_a_small_grid():
    assert border_path(4, 4).tolist() == [0, 1, 2, 3, 7, 11, 15, 14, 13, 12, 8, 4, 5, 6, 10, 9]
    assert border_path(3, 5).tolist() == [0, 1, 2, 3, 4, 9, 14, 13, 12, 11, 10, 5, 6, 7, 8]
    assert border_path(3, 1).tolist() == [0, 1, 2]
    assert [int(route.paths[0, 0]) for route in layers("border-spiral", 8, paths=8)] == [0, 0, 5, 5, 18, 18, 23, 23]
    inwards, outwards = (layers("border-spiral", 1, outward=outward)[0] for outward in (False, True))
    assert (inwards.paths[0][::-1] == outwards.paths[0]).all()


@given(height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_the_border_spiral_goes_to_neighbours_ring_by_ring(height, width):
    path = border_path(height, width)
    assert sorted(path.tolist()) == list(range(height * width))
    rows, columns = np.divmod(path, width)
    assert (abs(np.diff(rows)) + abs(np.diff(columns)) == 1).all()
    rings = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns])
    assert (np.diff(rings) >= 0).all()
