"""Properties of the built-in orders on every rectangle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zigma_bench import scans
from zigma_bench.errors import UsageError
from zigma_bench.plugins.registry import RESERVED, scan_spec
from zigma_bench.scans import layers as layers_module
from zigma_bench.scans.analysis import route_statistics
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import Route

SPECS = {scan.__name__.replace("_", "-"): scan_spec(scan.__name__, scan, owner="zigma-bench") for scan in scans.SCANS}
SIDE = st.integers(1, 13)


def layers(name: str, grid: Grid, depth: int = 8, **given) -> tuple[Route, ...]:
    spec = SPECS[name]
    return layer_routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve(given, where="test"))


@given(height=SIDE, width=SIDE)
@settings(max_examples=60, deadline=None)
def test_zigzag_never_jumps_and_keeps_eight_paths(height, width):
    found = layers("zigzag", Grid(height, width))
    for one in found:
        rows, columns = np.divmod(one.paths[0], width)
        assert (abs(np.diff(rows)) + abs(np.diff(columns)) == 1).all()
    if height > 1 and width > 1:
        assert len(set(found)) == 8


@given(height=SIDE, width=SIDE)
@settings(max_examples=60, deadline=None)
def test_zigzags_reversal_pairs_by_parity(height, width):
    """Row paths end in the row's far corner when H is odd, column paths when W is odd; the reverse starts there."""
    path = [one.paths[0].tolist() for one in layers("zigzag", Grid(height, width))]
    rows = [(0, 6), (2, 4)] if height % 2 else [(0, 4), (2, 6)]
    columns = [(1, 7), (3, 5)] if width % 2 else [(1, 3), (5, 7)]
    for one, other in rows + columns:
        assert path[one] == path[other][::-1]


@given(height=SIDE, width=SIDE)
@settings(max_examples=40, deadline=None)
def test_sweep_is_closed_under_reversal(height, width):
    path = [one.paths[0].tolist() for one in layers("sweep", Grid(height, width))]
    for one, other in ((0, 6), (1, 7), (2, 4), (3, 5)):
        assert path[one] == path[other][::-1]


@given(tokens=st.integers(3, 60), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_inverse_undoes_any_path(tokens, seed):
    path = np.random.default_rng(seed).permutation(tokens)
    cycle = np.roll(np.arange(tokens), 1)  # never its own inverse for three tokens or more
    found = Route(np.stack([path, cycle]))
    stream = np.random.default_rng(seed + 1).normal(size=tokens)
    for k in range(2):
        assert (stream[found.paths[k]][found.inverse[k]] == stream).all()
    assert not np.array_equal(found.inverse[1], found.paths[1])


@pytest.mark.parametrize("value", [9, 0, -1, "8", True, 2.0, None])
def test_zigzag_takes_one_to_eight_paths(value):
    with pytest.raises(UsageError, match="whole number from 1 to 8") as caught:
        SPECS["zigzag"].resolve({"paths": value}, where="suite.yaml:3")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("suite.yaml:3: option 'paths' has a wrong value")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sweep", {"paths": 9}, "1 | 2 | 4 | 8"),
        ("sweep", {"paths": 0}, "1 | 2 | 4 | 8"),
        ("sweep", {"paths": 3}, "1 | 2 | 4 | 8"),
        ("sweep", {"paths": "8"}, "1 | 2 | 4 | 8"),
        ("bidirectional", {"mode": "both"}, "parallel | layerwise"),
        ("zigzag", {"path": 8}, "did you mean 'paths'?"),
        ("raster", {"paths": 1}, "(it has none)"),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    with pytest.raises(UsageError) as caught:
        SPECS[name].resolve(options, where="suite.yaml:3")
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_defaults_are_the_cards():
    cyclic = {"assignment": "cyclic"}
    assert SPECS["zigzag"].resolve({}, where="") == {"paths": 8, "mode": "layerwise", "compatibility": "none", **cyclic}
    assert SPECS["sweep"].resolve({}, where="") == {"paths": 8, **cyclic}
    assert SPECS["bidirectional"].resolve({}, where="") == {"mode": "parallel", "continuous": False, **cyclic}
    (both,) = set(layers("bidirectional", Grid(3, 4)))
    assert (both.K, both.scanned_ratio, both.merge, both.share) == (2, 2.0, "sum", "separate")
    assert [one.scanned_ratio for one in layers("bidirectional", Grid(3, 4), mode="layerwise")] == [1.0] * 8


def test_the_hook_registers_all():
    found: dict[str, object] = {}
    scans.register_scans(found.__setitem__)
    assert list(found) == list(SPECS)
    assert all(spec.target is found[name] for name, spec in SPECS.items())


def test_reserved_arguments_are_those_of_the_registry():
    assert layers_module.RESERVED == RESERVED


@pytest.mark.parametrize(
    ("name", "share4", "mean", "largest"), [("raster", 56 / 63, 112 / 63, 8), ("zigzag", 1.0, 1.0, 1)]
)
def test_step_statistics_of_the_catalogue(name, share4, mean, largest):
    """The values of the published catalogue on 8 x 8: .89 / 1.78 / 8 for raster, 1 / 1 / 1 for zigzag."""
    found = route_statistics(layers(name, Grid(8, 8))[0], Grid(8, 8))
    assert (found.neighbour4_share, found.mean_step, found.largest_step) == (pytest.approx(share4), mean, largest)
