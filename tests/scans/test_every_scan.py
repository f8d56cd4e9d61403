"""The tests that every built-in scan must pass, and the published values of the catalogue."""

from __future__ import annotations

import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zigma_bench.errors import NotReady
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Spec
from zigma_bench.scans.analysis import route_statistics
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import PAD, BrokenScan, Route
from zigma_bench.scans.turns import count_paths_in_turn

SCANS = {spec.name: spec for spec in catalogue().scans if spec.owner == "zigma-bench"}
VIDEO = {
    "raster", "column", "bidirectional", "row-repeat", "mamba-nd", "video-mamba", "zigzag-video", "random",
    "multi-path", "adventurer", "mamba-r",
}  # fmt: skip
CLIPS = ("video-mamba", "zigzag-video")
NAMED = {  # what a list of scans must show
    "raster", "bidirectional", "sweep", "zigzag", "column", "cross-scan", "continuous", "local", "atrous", "hilbert",
    "morton", "peano", "diagonal", "jpeg", "omnidirectional", "spiral", "nested-s", "dim", "random",
}  # fmt: skip


def option_sets(spec: Spec) -> list[dict[str, object]]:
    """The defaults, and each value of each option that lists its values, one option at a time."""
    sets: list[dict[str, object]] = [{}]
    for option in spec.options:
        if typing.get_origin(option.annotation) is typing.Literal:
            sets += [{option.name: value} for value in typing.get_args(option.annotation)]
        elif option.annotation is bool:
            sets += [{option.name: value} for value in (False, True)]
    return sets + MORE.get(spec.name, [])


MORE: dict[str, list[dict[str, object]]] = {
    "zigzag": [{"paths": 3}, {"paths": 8, "mode": "parallel"}],
    "row-repeat": [{"paths": 1}],
    "bidirectional": [{"mode": "layerwise", "continuous": True}],
    "morton": [{"paths": 8, "assignment": "reversed"}],
    "border-spiral": [{"paths": 8, "outward": True}],
    "local": [{"window": 3}, {"window": 3, "edges": "cut"}, {"window": 2, "window_width": 5, "columns": True}],
    "local-mamba": [{"table": [["w7", "v_flip"], ["h"]]}],
    "atrous": [{"step": 1}],
    "nested-s": [{"stripe": 1}, {"stripe": 2}],
    "dim": [{"pads": 0}, {"pads": 1}],
    "mamba-r": [{"registers": 1}],
    "random": [{"paths": 1}, {"paths": 2, "mode": "parallel"}],
    "locality-matched": [{"paths": 2}],
    "zigzag-video": [{"order": "st"}, {"order": "tts"}],
}


def has_paths(name: str, options: dict[str, object]) -> bool:
    """Whether the layers follow several paths in turn, or the options don't ask for it."""
    count = count_paths_in_turn(SCANS[name].load(), Grid(4, 6), options)
    return (count or 1) > 1 or "assignment" not in options


CASES = [(name, options) for name, spec in SCANS.items() for options in option_sets(spec) if has_paths(name, options)]


def layers(name: str, grid: Grid | str, depth: int = 8, seed: int = 0, **options) -> tuple[Route, ...]:
    grid = Grid.parse(grid) if isinstance(grid, str) else grid
    return layer_routes(
        SCANS[name], grid=grid, depth=depth, seed=seed, options=SCANS[name].resolve(options, where="test")
    )


def visits_all_once(route: Route, tokens: int) -> None:
    walks = [route.paths.reshape(-1)] if route.merge == "scatter" else route.paths
    for path in walks:
        assert sorted(path[path != PAD].tolist()) == list(range(tokens))
    stream = np.random.default_rng(0).normal(size=tokens)
    written = np.zeros(tokens, int)
    for path, inverse in zip(route.paths, route.inverse, strict=True):
        walked = np.where(path == PAD, np.nan, stream[path])
        here = inverse >= 0
        assert (walked[inverse[here]] == stream[here]).all(), "the derived inverse puts every token back"
        written += here
    assert (written == (1 if route.merge == "scatter" else route.K)).all()


def test_the_scans_that_are_promised_are_there():
    assert set(SCANS) >= NAMED


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@given(height=st.integers(1, 11), width=st.integers(1, 11))
@settings(max_examples=12, deadline=None)
def test_any_rectangle_is_walked_or_refused(name, options, height, width):
    grid = Grid(height, width)
    try:
        found = layers(name, grid, **options)
    except BrokenScan:
        raise
    except NotReady:
        assert name in ("atrous", *CLIPS), "only a step longer than a side and orders of clips are refused"
        assert name in CLIPS or SCANS[name].resolve(options, where="")["step"] > min(height, width)
        return
    for route in set(found):
        visits_all_once(route, grid.tokens)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.parametrize("grid", ["2x3x4", "3x4x4", "5x1x3"])
def test_clips_are_walked_or_refused_with_the_reason(name, options, grid):
    if name in VIDEO and not options.get("continuous"):
        for route in set(layers(name, grid, **options)):
            visits_all_once(route, Grid.parse(grid).tokens)
    else:
        with pytest.raises(NotReady, match="order for single images") as caught:
            layers(name, grid, **options)
        assert not isinstance(caught.value, BrokenScan)


@pytest.mark.parametrize("name", SCANS)
def test_every_source_is_given(name):
    doc = SCANS[name].load().__doc__
    assert "Source:" in doc or name == "column"


# frac4, mean and largest step on 8 x 8, as published in the catalogue.
FIGURES = [
    ("raster", {}, 0.89, 1.78, 8), ("column", {}, 0.89, 1.78, 8), ("sweep", {}, 0.89, 1.78, 8), ("zigzag", {}, 1, 1, 1),
    ("local", {}, 0.51, 1.78, 8), ("local", {"window": 4}, 0.76, 1.78, 8), ("atrous", {}, 0, 3.2, 8),
    ("diagonal", {}, 0.03, 3.11, 13), ("jpeg", {}, 0.22, 1.78, 2), ("wrapped-diagonal", {}, 0, 3.5, 13),
    ("morton", {}, 0.51, 1.78, 8), ("hilbert", {}, 1, 1, 1), ("continuous", {}, 1, 1, 1),
    ("border-spiral", {}, 1, 1, 1), ("border-spiral", {"paths": 8, "outward": True}, 1, 1, 1),
    ("four-corners", {}, 0.89, 1.78, 8), ("four-corners", {"continuous": True}, 1, 1, 1),
    ("bidirectional", {"continuous": True}, 1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "share", "mean", "largest"), FIGURES)
def test_figures_of_the_catalogue(name, options, share, mean, largest):
    found = route_statistics(layers(name, "8x8", 1, **options)[0], Grid(8, 8))
    assert found.neighbour4_share == pytest.approx(share, abs=0.0051)
    assert found.mean_step == pytest.approx(mean, abs=0.051)
    assert found.largest_step == largest


def test_ranges_of_the_catalogue():
    inverse = [route_statistics(route, Grid(8, 8)) for route in layers("hilbert-inverse", "8x8", paths=8)]
    assert np.mean([s.neighbour4_share for s in inverse]) == pytest.approx(0.44, abs=0.01)
    assert np.mean([s.mean_step for s in inverse]) == pytest.approx(3.4, abs=0.051)
    spirals = [route_statistics(route, Grid(8, 8)) for route in layers("spiral", "8x8", turns=8)]
    assert all(0.975 <= s.neighbour4_share <= 1 and 1 <= s.mean_step <= 1.215 and s.largest_step <= 14 for s in spirals)
    for stripe in (2, 4):
        for route in layers("nested-s", "8x8", 2, stripe=stripe):
            found = route_statistics(route, Grid(8, 8))
            assert 0.94 <= found.neighbour4_share <= 0.985
            assert found.mean_step == pytest.approx(1.05, abs=0.02)
            assert 2 <= found.largest_step <= 4
    assert route_statistics(layers("random", "8x8")[0], Grid(8, 8)).neighbour4_share < 0.12
    assert route_statistics(layers("peano", "27x27")[0], Grid(27, 27)).largest_step == 1


@given(height=st.integers(1, 24), width=st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_hilbert_goes_to_neighbours_on_every_rectangle(height, width):
    path = layers("hilbert", Grid(height, width), 1)[0].paths[0]
    rows, columns = np.divmod(path, width)
    down, right = abs(np.diff(rows)), abs(np.diff(columns))
    assert np.maximum(down, right).max(initial=1) == 1
    assert ((down + right) > 1).sum() <= (height % 2 or width % 2), "one diagonal step, on an odd side only"


def histogram(path: np.ndarray, width: int) -> np.ndarray:
    rows, columns = np.divmod(path, width)
    return np.bincount(abs(np.diff(rows)) + abs(np.diff(columns)), minlength=40)


@pytest.mark.parametrize("of", ["raster", "zigzag", "hilbert", "morton", "jpeg"])
@pytest.mark.parametrize("grid", [Grid(8, 8), Grid(5, 12), Grid(16, 16)])
def test_locality_matched_keeps_the_step_lengths_and_little_else(of, grid):
    source = layers(of, grid, 1, **({"paths": 1} if of == "zigzag" else {}))[0].paths[0]
    pairs = set(zip(source[:-1].tolist(), source[1:].tolist(), strict=True))
    pairs |= {(b, a) for a, b in pairs}
    drawn = [layers("locality-matched", grid, 1, seed, of=of)[0].paths[0] for seed in range(4)]
    for path in drawn:
        others = abs(histogram(path, grid.width) - histogram(source, grid.width)).sum() / 2
        assert others <= max(1, (grid.tokens - 1) // 20)
        mine = set(zip(path[:-1].tolist(), path[1:].tolist(), strict=True))
        assert len(mine & pairs) < 0.85 * len(mine)
    assert len({path.tobytes() for path in drawn}) == 4


def test_random_orders_belong_to_the_seed():
    assert layers("random", "8x8", seed=1) == layers("random", "8x8", seed=1)
    assert layers("random", "8x8", seed=1)[0] != layers("random", "8x8", seed=2)[0]
    assert len(set(layers("random", "8x8"))) == 8
    assert len(set(layers("random", "8x8", paths=1))) == 1
    assert layers("random", "8x8", paths=2)[5] == layers("random", "8x8", paths=2)[1]


def test_a_draw_is_the_same_random_order_for_every_seed():
    assert layers("random", "8x8", seed=1, draw=7) == layers("random", "8x8", seed=2, draw=7)
    assert layers("random", "8x8", seed=1, draw=7) == layers("random", "8x8", seed=7)
    assert layers("random", "8x8", seed=1, draw=7)[0] != layers("random", "8x8", seed=1, draw=8)[0]
    assert layers("raster", "8x8", seed=1) is layers("raster", "8x8", seed=2), "no seed, no second building"


def test_the_mirrored_schedule_meets_its_skips_in_one_order():
    """DiM's 25 layers: the encoder cycles through 0, 1, 2, 3 and the decoder goes back."""
    numbers = [0, 1, 2, 3] * 3 + [0] + [3, 2, 1, 0] * 3
    four = layers("dim", "4x6", 4, mirrored=False)
    assert list(layers("dim", "4x6", 25)) == [four[n] for n in numbers]
    even = layers("dim", "4x6", 6)
    assert [even[i] == even[5 - i] for i in range(3)] == [True] * 3


def test_a_pad_is_one_row_of_the_table_whatever_the_order():
    """DiM's extra columns and rows: three learned tokens, told apart by how far behind the end of a line they stand."""
    height, width = 4 + 3, 6 + 3
    for route in layers("dim", "4x6", 4, mirrored=False):
        assert (route.pad_count, route.pad_rows) == (height * width - 24, 3)
    rows = [route.pads[0].tolist() for route in layers("dim", "4x6", 4, mirrored=False)]
    assert rows[0][:12] == [0, 1, 2] * 4, "each line ends in the same three"
    assert rows[1] == rows[0][::-1]
    assert rows[2][:18] == [0, 1, 2] * 6


def test_diffmas_layers_turn_eight_ways():
    found = layers("diffma", "7x7", 16)
    assert len(set(found[:8])) == 8
    assert found[8:] == found[:8]
    for route in found:
        assert (route.paths[0] == np.arange(49)).all()
        assert (route.paths[1] == route.paths[2][::-1]).all()


def test_local_mamba_goes_through_its_table():
    table = [["h", "w2_flip"], ["v", "v_flip"]]
    found = layers("local-mamba", "4x6", 4, table=table)
    assert found[0] == found[2] != found[1] == found[3]
    assert (found[1].paths[0] == found[1].paths[1][::-1]).all()
    for wrong in ([["w0"]], [["x"]], [["w2_flop"]], [[]], []):
        with pytest.raises(NotReady, match="local-mamba"):
            layers("local-mamba", "4x4", table=wrong)


def test_a_video_string_of_other_letters_is_refused():
    for order in ("s", "", "stx", "tt"):
        with pytest.raises(NotReady, match="letters s and t"):
            layers("zigzag-video", "2x4x4", order=order)
