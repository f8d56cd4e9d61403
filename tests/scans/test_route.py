"""Routes: invalid orders are refused with a helpful error, and the digest identifies an order."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry import Spec, scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import BrokenScan, Route

GRID = Grid(3, 4)
GOOD = [5, 0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def scan_of(value, owner: str = "their-dist 2.1") -> Spec:
    def theirs(grid):
        """Gives what it was told."""
        if isinstance(value, BaseException):
            raise value
        return value

    return scan_spec("theirs", theirs, owner=owner)


def run(value, depth: int = 2):
    return layer_routes(scan_of(value), grid=GRID, depth=depth, seed=0, options={})


def changed(**changes: int) -> list[int]:
    """GOOD with the tokens of some steps changed, given as step_3=7."""
    path = list(GOOD)
    for step, token in changes.items():
        path[int(step.removeprefix("step_"))] = token
    return path


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            changed(step_7=3),
            ["path 0: step 7 visits token 3 again, first visited at step 4", "token 7 is never visited"],
        ),
        ([GOOD, changed(step_7=3)], ["path 1: step 7 visits token 3 again"]),
        (GOOD[:-1], ["it has 11 steps for 12 tokens", "token 11 is never visited", "visit the missing tokens too"]),
        ([*GOOD, 4], ["it has 13 steps for 12 tokens", "step 12 visits token 4 again, first visited at step 5"]),
        (changed(step_2=12, step_5=-3), ["path 0: step 2 visits token 12, outside 0 to 11", "flat index is"]),
        (changed(step_4=-2), ["step 4 visits token -2", "-1 a pad"]),
        (changed(step_4=-1), ["it has 11 steps for 12 tokens", "token 3 is never visited"]),
        (np.array(GOOD, float), ["path 0: step 0 is 5.0, not an integer", "got 'float64'", "np.arange"]),
        ([GOOD, [0.5] * 12], ["step 0 is 5.0, not an integer"]),
        (np.array([*GOOD[:3], None, *GOOD[4:]]), ["path 0: step 3 is None, not an integer"]),
        (np.array(GOOD) > 3, ["not an integer", "got 'bool'"]),
        (list("abcdefghijkl"), ["not an integer"]),
        ([GOOD, GOOD[:5]], ["the paths have different lengths"]),
        (np.zeros((2, 2, 3), int), ["wrong shape", "got (2, 2, 3)", "[L] (one path) or [K, L]"]),
        ([], ["wrong shape", "got (0,)", "not empty"]),
        (np.zeros((0, 12), int), ["wrong shape", "got (0, 12)"]),
        (None, ["wrong shape", "got ()"]),
        (7, ["wrong shape"]),
        (KeyError("corner"), ["failed on the grid 3x4 with KeyError: 'corner'", "fix the scan"]),
        (ZeroDivisionError("division by zero"), ["ZeroDivisionError: division by zero"]),
    ],
)
def test_a_broken_scan_says_what_is_wrong_and_whose_it_is(value, words):
    with pytest.raises(BrokenScan) as caught:
        run(value)
    text = str(caught.value)
    assert text.startswith("scan 'theirs' of their-dist 2.1, layer 0: ")
    for word in words:
        assert word in text
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("error", [NotReady("needs a square"), UsageError("no such corner", where="corner")])
def test_what_a_scan_refuses_keeps_its_kind_and_gains_its_name(error):
    with pytest.raises(type(error), match=r"^scan 'theirs' of their-dist 2.1, layer 0") as caught:
        run(error)
    assert caught.value is error
    assert not isinstance(error, BrokenScan)


def test_the_layer_of_a_fault_is_named():
    def late(grid, layer):
        """Goes wrong in layer 3."""
        return np.arange(grid.tokens) if layer < 3 else np.zeros(grid.tokens, int)

    with pytest.raises(BrokenScan, match="scan 'late' of x, layer 3: path 0: step 1 visits token 0 again"):
        layer_routes(scan_spec("late", late, owner="x"), grid=GRID, depth=6, seed=0, options={})


@pytest.mark.parametrize(("field", "value"), [("merge", "product"), ("share", "both")])
def test_a_route_of_unknown_merge_or_share(field, value):
    with pytest.raises(BrokenScan, match=f"unknown {field}.* got '{value}'"):
        Route(GOOD, **{field: value})


def test_the_nearest_merge_is_named():
    with pytest.raises(BrokenScan, match=r"expected one of cascade, .*; got 'summ'; did you mean 'sum'\?"):
        Route(GOOD, merge="summ")
    with pytest.raises(BrokenScan, match="the merge of a route is a name; expected a text; got 3"):
        Route(GOOD, merge=3)


@pytest.mark.parametrize("value", [GOOD, [GOOD], np.array(GOOD, np.uint8), Route(GOOD), tuple(GOOD)])
def test_forms_that_a_scan_may_return(value):
    first, second = run(value)
    assert first is second
    assert first == Route(GOOD)
    assert first.paths.shape == (1, 12)
    assert first.paths.dtype == np.int64
    assert first.paths.flags.c_contiguous
    assert (first.K, first.tokens, first.scanned_ratio) == (1, 12, 1.0)


def test_a_routes_array_is_its_own_and_read_only():
    array = np.array(GOOD)
    route = Route(array)
    array[0] = 0
    assert route.paths[0, 0] == 5
    with pytest.raises(ValueError, match="read-only"):
        route.paths[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        route.inverse[0, 0] = 1


def test_reversed_views_become_contiguous():
    route = Route(np.arange(12)[::-1])
    assert route.paths.flags.c_contiguous
    assert route.inverse.tolist() == [list(range(12))[::-1]]


def test_the_digest_tells_routes_apart():
    two = [GOOD, sorted(GOOD)]
    different = [
        Route(GOOD), Route(sorted(GOOD)), Route(two), Route(two[::-1]), Route(two, merge="mean"),
        Route(two, share="shared"), Route([GOOD + sorted(GOOD)]), Route(two, segments=[6, 6]),
        Route(two, segments=[[6, 6], [12]]), Route(two, step_feature=np.zeros((2, 12), int)),
        Route(two, merge="cascade"), Route(two, merge="cascade", stages=[2]), Route([*GOOD, -1]),
        Route([*GOOD, -1], pads=[0]),
    ]  # fmt: skip
    assert len({route.digest for route in different}) == len(different) == len(set(different))
    assert Route(two) == Route(np.array(two, np.int32))
    assert hash(Route(two)) == hash(Route(two))
    assert Route(GOOD) != GOOD


def test_the_digest_is_the_same_in_another_process():
    code = "from zigma_bench.scans.route import Route; print(Route([[2, 0, 1], [0, 1, 2]], merge='mean').digest)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Route([[2, 0, 1], [0, 1, 2]], merge="mean").digest
    assert len(done.stdout.strip()) == 64


FOUR = np.arange(12).reshape(4, 3)
TWO = np.stack([np.arange(12), np.arange(12)[::-1]])


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (lambda: Route(TWO, segments=[6, 5]), "the segments don't fit the path; expected lengths of at least 1"),
        (lambda: Route(TWO, segments=[12, 0]), "the segments don't fit the path"),
        (lambda: Route(TWO, segments=[[12], [6, 6], [12]]), "the number of segment lists differs"),
        (lambda: Route(TWO, segments=[[12], [6, 5]]), "the segments don't fit the path"),
        (lambda: Route([0, -1, 1, -1], pads=[0]), "the pads have a wrong shape"),
        (lambda: Route([0, -1, 1, -1], pads=[0, 2]), "skip rows of their table"),
        (lambda: Route(TWO, step_feature=[0] * 12), "the step features don't fit the paths"),
        (lambda: Route([0, 1], step_feature=[0, -1]), "the step features don't fit the paths"),
        (lambda: Route(TWO, stages=(1, 1)), "only a merge of stages has stages"),
        (lambda: Route(TWO, merge="cascade", stages=(1, 2)), "the stages don't fit the paths"),
        (lambda: run(Route(FOUR + 1, merge="scatter")), "the paths together: path 3, step 2 visits token 12, outside"),
        (lambda: run(Route(FOUR % 9, merge="scatter")), "path 3, step 0 visits token 0 again, first visited at path 0"),
        (lambda: run(Route(FOUR)), "path 0: it has 3 steps for 12 tokens"),
    ],
)
def test_a_broken_route_is_named(route, words):
    with pytest.raises(BrokenScan) as caught:
        route()
    assert words in str(caught.value)


def test_what_a_route_with_everything_is():
    padded = Route([0, -1, 2, 1, -1, 3], pads=[1, 0], segments=[2, 4], step_feature=[0, 1, 2, 0, 0, 2])
    padded.check(Grid(2, 2), "test")
    assert (padded.tokens, padded.steps, padded.pad_count, padded.pad_rows, padded.features) == (4, 6, 2, 2, 3)
    assert padded.inverse.tolist() == [[0, 3, 2, 5]]
    assert padded.segment_starts is not None
    assert padded.segment_starts.tolist() == [[0, 0, 2, 2, 2, 2]]
    assert padded.scanned_ratio == 1.5
    assert not padded.bijective
    parts = Route(FOUR, merge="scatter")
    parts.check(GRID, "test")
    assert (parts.scanned_ratio, parts.inverse[1].tolist()[3:6], parts.inverse[1, 0]) == (1.0, [0, 1, 2], -1)
    assert Route(TWO, merge="concat").scanned_ratio == 1.0
    assert Route(TWO, merge="cascade").stages == (1, 1)
    assert Route(TWO).bijective


def test_reserved_arguments_are_handed_over_by_name():
    seen = []

    def nosy(seed, layer, grid, depth, *, twist: int = 0):
        """Notes what it is given."""
        seen.append((seed, layer, str(grid), depth, twist))
        return np.roll(np.arange(grid.tokens), layer + twist)

    spec = scan_spec("nosy", nosy, owner="x")
    first = layer_routes(spec, grid=GRID, depth=2, seed=7, options={"twist": 3})
    assert seen == [(7, 0, "3x4", 2, 3), (7, 1, "3x4", 2, 3)]
    assert first[1].paths[0, 0] == 12 - 4
    assert layer_routes(spec, grid=GRID, depth=2, seed=7, options={"twist": 3}) is first, "remembered"
    assert len(seen) == 2
    layer_routes(spec, grid=GRID, depth=2, seed=8, options={"twist": 3})
    layer_routes(spec, grid=GRID, depth=2, seed=7, options={"twist": 4})
    assert len(seen) == 6


def test_two_functions_of_one_name_are_not_confused():
    one, other = scan_of(GOOD), scan_of(sorted(GOOD))
    assert (one.name, one.owner) == (other.name, other.owner)
    assert layer_routes(one, grid=GRID, depth=1, seed=0, options={}) != layer_routes(
        other, grid=GRID, depth=1, seed=0, options={}
    )


def test_a_network_has_a_layer():
    with pytest.raises(UsageError, match="at least one layer"):
        run(GOOD, depth=0)


def test_scans_import_without_torch():
    code = "import sys, zigma_bench.scans, zigma_bench.scans.analysis, zigma_bench.scans.draw; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "pydantic", "rich", "pandas", "scipy"}


@pytest.mark.parametrize("segments", [12, [], [[6, 6], 12], [12, [6, 6]], [[[6, 6]], [[12]]], "66", [6.0, 6.0]])
def test_segments_of_a_wrong_form_are_named_as_such(segments):
    with pytest.raises(BrokenScan, match="segments") as caught:
        Route(TWO, segments=segments)
    assert "add up to 12" in str(caught.value)


@pytest.mark.parametrize("stages", [2, "11", (1.5, 0.5), (2, 0)])
def test_stages_of_a_wrong_form_are_named_as_such(stages):
    with pytest.raises(BrokenScan, match="the stages don't fit the paths"):
        Route(TWO, merge="cascade", stages=stages)
