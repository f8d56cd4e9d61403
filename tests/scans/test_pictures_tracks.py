"""The geometry of a path on the plane, worked out by hand."""

from __future__ import annotations

from zigma_bench.scans.grid import Grid
from zigma_bench.scans.pictures import make_track, track_runs
from zigma_bench.scans.route import Route


def test_a_path_on_the_plane():
    """0 1 / 2 3 in raster order: right, a diagonal to a neighbour, right; x is the column."""
    found = make_track(Route(range(4)), 0, Grid(2, 2))
    assert found.points.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert found.link.tolist() == ["step"] * 3
    assert (found.shades, found.shade.tolist()) == (4, [0, 1, 2, 3])
    assert len(found.pads) == len(found.ends) == 0


def test_jumps_resets_and_pads():
    found = make_track(Route([0, 2, -1, 1, 3], segments=[4, 1]), 0, Grid(1, 4))
    assert found.link.tolist() == ["jump", "", ""]
    assert found.pads.tolist() == [[1.5, 0]], "half a cell from token 2 towards token 1"
    assert found.ends.tolist() == [[0, 0], [1, 0], [3, 0]], "the last segment is one token, and ends where it begins"


def test_pads_before_after_and_alone():
    found = make_track(Route([-1, 0, 1, -1, -1]), 0, Grid(1, 2))
    assert found.pads.tolist() == [[-0.5, 0], [1.5, 0]]
    assert make_track(Route([-1, 0]), 0, Grid(1, 1)).pads.tolist() == [[-0.5, 0]]
    ends = make_track(Route([0, 1, 2, -1, 3, 4, 5]), 0, Grid(2, 3)).pads
    assert ends.tolist() == [[2.5, 0]], "at the end of a line a pad lies ahead, not on the line"
    assert len(make_track(Route([[0], [-1]], merge="scatter"), 1, Grid(1, 1)).pads) == 0


def test_frames_of_a_clip_are_side_by_side():
    found = make_track(Route([0, 2, 3, 1]), 0, Grid(1, 2, frames=2))
    assert found.points[:, 0].tolist() == [0, 3, 4, 1]
    assert found.link.tolist() == ["jump", "step", "jump"]


def test_lines_are_unbroken_stretches_of_one_shade():
    found = make_track(Route(range(240)), 0, Grid(1, 240))
    lines = track_runs(found, "step")
    assert found.shades == 120
    assert [shade for _, shade in lines] == list(range(120))
    assert sum(len(line) - 1 for line, _ in lines) == 239
    assert track_runs(found, "jump") == []
    both = make_track(Route([0, 1, 3, 2]), 0, Grid(1, 4))
    assert [line.tolist() for line, _ in track_runs(both, "jump")] == [[[1, 0], [3, 0]]]
    assert [line.tolist() for line, _ in track_runs(both, "step")] == [[[0, 0], [1, 0]], [[3, 0], [2, 0]]]
