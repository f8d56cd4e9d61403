"""The faults found in published code: our order is right, and where the fault is an order, an option reproduces it.

Faults that are no order of tokens (a wrong inverse, cells left unwritten, a tensor that was not reordered) can't be
had at all here, because the framework derives inverses and the mixer reorders every tensor.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.mamba.facts import MambaOptions
from zigma_bench.mixers.mamba.mixer import MambaMixer
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.analysis import route_statistics
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import PAD, Route

BLOCK = ZigmaOptions(width=16, depth=1, patch=1, state=4)


def layers(name: str, grid: str, depth: int = 1, **options) -> tuple[Route, ...]:
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=Grid.parse(grid), depth=depth, options=spec.resolve(options, where="test"))


def figures(route: Route, grid: str, path: int = 0):
    return route_statistics(Route(route.paths[path]), Grid.parse(grid))


def mixer(route: Route, grid: str) -> MambaMixer:
    made = MambaMixer(MambaOptions(), block=BLOCK, grid=Grid.parse(grid), route=route, backend="naive")
    initialise_network(made, 0)
    return made


def test_1_zigma_runs_the_inverse_of_hilbert():
    right, executed = layers("hilbert", "8x8", 8, paths=8), layers("hilbert", "8x8", 8, paths=8, compatibility="zigma")
    assert executed == layers("hilbert-inverse", "8x8", 8, paths=8)
    for one, other in zip(right, executed, strict=True):
        assert (one.inverse == other.paths).all()
        assert (one.inverse[0][one.paths[0]] == np.arange(64)).all(), "both round trips are exact: nothing crashes"
        assert figures(one, "8x8").neighbour4_share == 1
        assert figures(other, "8x8").neighbour4_share == pytest.approx(0.44, abs=0.01)


def test_2_diffma_runs_inverses_too():
    for layer in range(8):
        right, executed = (layers("diffma", "8x8", 8, compatibility=c)[layer] for c in ("none", "diffma"))
        assert figures(right, "8x8", 1).neighbour4_share >= 0.975
        assert 0.40 <= figures(executed, "8x8", 1).neighbour4_share <= 0.52
    zig = layers("zigzag", "8x8", 8, compatibility="diffma")
    rows, columns = zig[1::2], zig[::2]
    assert all(figures(route, "8x8").neighbour4_share == 1 for route in rows), "row snakes are their own inverse"
    for route in columns:
        assert (figures(route, "8x8").neighbour4_share, figures(route, "8x8").largest_step) == (0, 13)
    vmamba = layers("continuous", "8x8", variant="diffma")[0]
    assert [figures(vmamba, "8x8", k).neighbour4_share for k in range(4)] == [1, 0, 1, 0]


@pytest.mark.parametrize("grid", ["4x6", "6x4", "5x3"])
def test_3_columns_come_back_on_grids_that_are_not_square(grid):
    height, width = map(int, grid.split("x"))
    columns = np.arange(height * width).reshape(height, width).T.reshape(-1)
    times = np.arange(height * width).reshape(width, height).T.reshape(-1)  # when each token is visited
    for name, right, back in (("v", columns, times), ("v_flip", columns[::-1], times.size - 1 - times)):
        route = layers("local-mamba", grid, table=[[name]])[0]
        assert (route.paths[0] == right).all()
        assert (route.inverse[0] == back).all()


def test_4_eamambas_zorder_is_not_mortons():
    right, executed = layers("morton", "4x4")[0], layers("morton", "4x4", compatibility="eamamba")[0]
    assert executed.paths[0].tolist()[8:] == [8, 12, 9, 13, 10, 14, 11, 15]
    assert right.paths[0].tolist()[8:] == [8, 9, 12, 13, 10, 11, 14, 15]
    cut, whole = layers("hilbert", "4x6", compatibility="eamamba")[0], layers("hilbert", "4x6")[0]
    assert figures(cut, "4x6").neighbour4_share == pytest.approx(0.957, abs=0.001)
    assert figures(whole, "4x6").neighbour4_share == 1


def test_5_a_dilated_scan_writes_every_cell():
    route = layers("atrous", "6x6", step=3)[0]
    assert sorted(route.paths[route.paths != PAD].tolist()) == list(range(36))


@torch.no_grad()
def test_6_every_tensor_of_the_scan_follows_the_path():
    """A layer along four shared serpentines is the sum of four raster layers on permuted tokens."""
    route = layers("continuous", "4x6")[0]
    along = mixer(route, "4x6")
    x = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    total = torch.zeros_like(x)
    for path, ids in zip(route.paths, route.step_feature, strict=True):
        plain = mixer(Route(np.arange(24), step_feature=ids), "4x6")
        state = along.state_dict()
        state["branches.0.step_features"] = state["branches.0.step_features"][: int(ids.max()) + 1]
        plain.load_state_dict(state, strict=True)
        index = torch.from_numpy(path.copy())
        total[:, index] += plain(x[:, index])
    torch.testing.assert_close(along(x), total, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_7_frames_of_a_clip_keep_their_time():
    """What a layer through time writes at a token depends on earlier frames of its place (layer 1: on later ones)."""
    for layer, back in ((0, False), (2, True)):
        made = mixer(layers("zigzag-video", "3x2x2", 3, order="ts")[layer], "3x2x2")
        x = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0))
        changed = x.clone()
        changed[:, 4] += 1  # frame 1, place 0
        seen = (made(changed) - made(x)).abs().amax((0, 2)) > 0
        assert seen.nonzero()[:, 0].tolist() == ([0, 4] if back else [4, 8])


@torch.no_grad()
def test_8_parallel_serpentines_have_a_forward():
    route = layers("zigzag", "4x6", mode="parallel")[0]
    assert (route.K, route.scanned_ratio) == (8, 8.0)
    assert mixer(route, "4x6")(torch.randn(1, 24, 16)).isfinite().all()


def test_9_adventurer_turns_every_second_layer():
    def turned(**options):
        return [i for i, route in enumerate(layers("adventurer", "4x4", 8, **options)) if route.paths[0, 1] == 15]

    assert turned() == [1, 3, 5, 7]
    assert turned(compatibility="adventurer") == [2, 3]


def test_10_the_backward_paths_of_rs_mamba_are_the_reverse_of_the_forward_ones():
    paths = layers("omnidirectional", "4x6")[0].paths
    for forward, backward in ((0, 2), (1, 3), (4, 6), (5, 7)):
        assert (paths[forward] == paths[backward][::-1]).all()


def test_11_random_orders_are_the_same_again():
    assert layers("multi-path", "4x6", 4) == layers("multi-path", "4x6", 4)
    assert len(set(layers("multi-path", "4x6", 4))) == 4


@pytest.mark.parametrize("grid", ["3x5", "1x7", "6x4"])
def test_12_banks_of_turned_curves_take_any_rectangle(grid):
    for name, options in (("hybrid", {}), ("hybrid", {"curve": "zorder"}), ("jpeg", {"paths": 8}), ("sweep", {})):
        assert all(route.tokens == Grid.parse(grid).tokens for route in layers(name, grid, 8, **options))
