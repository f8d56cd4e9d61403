"""The mixer runs every kind of route, forwards and backwards, and each has the documented effect."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.mamba.facts import MambaOptions, mamba_cost
from zigma_bench.mixers.mamba.mixer import MambaMixer
from zigma_bench.ops.compiler import find_compiler
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import Route

BLOCK = ZigmaOptions(width=16, depth=2, patch=1, state=4)
GRID = Grid(4, 6)
PLAIN = np.arange(24)
BACKENDS = ["naive", "torch", *(["cpu"] if find_compiler() else [])]
BUILT_IN = sorted(spec.name for spec in catalogue().scans if spec.owner == "zigma-bench")


def mixer(route: Route, grid: Grid = GRID, backend: str = "naive", seed: int = 0) -> MambaMixer:
    made = MambaMixer(MambaOptions(), block=BLOCK, grid=grid, route=route, backend=backend)
    initialise_network(made, seed)
    return made


def tokens(grid: Grid = GRID, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, grid.tokens, 16, generator=torch.Generator().manual_seed(1))


def route_of(name: str, grid: Grid, layer: int, **options) -> Route:
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=grid, depth=8, seed=0, options=spec.resolve(options, where="test"))[layer]


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("layer", [0, 5])
def test_every_scan_forwards_and_backwards_on_every_backend(name, layer):
    grid = Grid(3, 4, 2) if "video" in name else GRID
    route = route_of(name, grid, layer)
    found = []
    for backend in BACKENDS:
        made, x = mixer(route, grid, backend), tokens(grid).requires_grad_()
        y = made(x)
        assert y.shape == x.shape
        y.square().sum().backward()
        for key, parameter in made.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().sum() > 0, key
        found.append([y.detach(), x.grad, *(p.grad for p in made.parameters())])
    for other in found[1:]:
        for mine, right in zip(other, found[0], strict=True):
            assert (mine - right).norm() <= 1e-4 * right.norm() + 1e-7


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_cost_is_that_of_the_built_mixer(name):
    grid = Grid(3, 4, 2) if "video" in name else GRID
    route = route_of(name, grid, 1)
    cost = mamba_cost(MambaOptions(), block=BLOCK, grid=grid, route=route)
    made = mixer(route, grid)
    assert cost.parameters == sum(p.numel() for p in made.parameters())
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(tokens(grid, 1))
    assert counter.get_total_flops() == sum(v for k, v in cost.forward_flops.items() if k not in ("conv", "scan"))


def test_concat_costs_what_one_path_costs():
    one = mamba_cost(MambaOptions(), block=BLOCK, grid=GRID, route=Route(PLAIN))
    four = Route(np.stack([PLAIN, PLAIN[::-1], PLAIN, PLAIN[::-1]]), merge="concat")
    many = mamba_cost(MambaOptions(), block=BLOCK, grid=GRID, route=four)
    assert dict(many.forward_flops) == dict(one.forward_flops)


def depends(made: MambaMixer, grid: Grid = GRID) -> np.ndarray:
    """[L, L]: whether output token i depends on input token j."""
    x = tokens(grid, 1)
    base = made(x)
    found = np.zeros((grid.tokens, grid.tokens), dtype=bool)
    for j in range(grid.tokens):
        changed = x.clone()
        changed[:, j] += 1
        found[:, j] = (made(changed) - base).abs().amax((0, 2)).numpy() > 0
    return found


@torch.no_grad()
def test_a_segment_knows_nothing_of_the_one_before():
    path = np.random.default_rng(0).permutation(24)
    seen = depends(mixer(Route(path, segments=(np.array([10, 1, 13]),))))
    time, segment = np.argsort(path), np.repeat([0, 1, 2], [10, 1, 13])[np.argsort(path)]
    expected = (time[:, None] >= time) & (segment[:, None] == segment)
    assert (seen == expected).all()


@torch.no_grad()
def test_a_scatter_keeps_its_parts_apart():
    route = route_of("atrous", GRID, 0)
    seen = depends(mixer(route))
    part = np.zeros(24, int)
    for number, path in enumerate(route.paths):
        part[path] = number
    assert (seen <= (part[:, None] == part)).all()
    assert seen.any(1).all(), "every token is written"


@torch.no_grad()
def test_an_odd_grid_is_written_whole_by_a_dilated_scan():
    grid = Grid(6, 7)
    made = mixer(route_of("atrous", grid, 0, step=3), grid)
    assert (made(tokens(grid)).abs().amax(-1) > 0).all()


@torch.no_grad()
def test_channel_groups_of_a_concat_walk_their_own_path():
    both = Route(np.stack([PLAIN, PLAIN[::-1]]), merge="concat")
    made = mixer(both)
    made.out_proj.weight[:, 16:] = 0  # only the first of two groups of 16 channels is in the output
    seen = depends(made)
    assert (seen == (PLAIN[:, None] >= PLAIN)).all()


@torch.no_grad()
def test_merges_start_as_sum_or_mean():
    paths = np.stack([PLAIN, PLAIN[::-1], np.roll(PLAIN, 5)])
    total = mixer(Route(paths))(tokens())
    torch.testing.assert_close(mixer(Route(paths, merge="channel-attention"))(tokens()), total)
    for mean in ("mean", "gate"):
        torch.testing.assert_close(mixer(Route(paths, merge=mean))(tokens()) * 3, total)


@torch.no_grad()
def test_a_gate_weighs_the_paths_of_each_sample():
    made = mixer(Route(np.stack([PLAIN, PLAIN[::-1]]), merge="gate"))
    made.merge.bias.copy_(torch.tensor([50.0, 0.0]))
    made.branches[1].D.fill_(1e6)  # the second path has no weight
    first = mixer(Route(PLAIN))
    first.load_state_dict({k: v for k, v in made.state_dict().items() if k in first.state_dict()}, strict=True)
    torch.testing.assert_close(made(tokens()), first(tokens()))


@torch.no_grad()
def test_a_cascade_reads_what_the_stage_before_wrote():
    rows = PLAIN.reshape(4, 6)
    lengths = (np.full(4, 6), np.full(6, 4))
    made = mixer(Route(np.stack([rows.reshape(-1), rows.T.reshape(-1)]), merge="cascade", segments=lengths))
    seen = depends(made)
    r, c = np.divmod(PLAIN, 6)
    assert (seen == ((r[:, None] >= r) & (c[:, None] >= c))).all(), "along its row, then down the column"


@torch.no_grad()
def test_learned_pads_are_read_by_what_follows_them_and_zeros_leave_nothing():
    path = np.concatenate((PLAIN[:10], [-1, -1], PLAIN[10:]))
    made = mixer(Route(path, pads=np.array([[1, 0]])))
    before = made(tokens())
    made.pads.table[1] += 1
    changed = (made(tokens()) - before).abs().amax((0, 2)) > 0
    assert (changed.numpy() == (PLAIN >= 10)).all()
    zeros = mixer(Route(np.concatenate((PLAIN, [-1]))))
    assert "pads.table" not in zeros.state_dict()
    torch.testing.assert_close(zeros(tokens()), mixer(Route(PLAIN))(tokens()), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_step_features_belong_to_the_step_not_to_the_row():
    path = np.random.default_rng(3).permutation(24)
    ids = np.arange(24) % 5
    along = mixer(Route(path, step_feature=ids))
    plain = mixer(Route(PLAIN, step_feature=ids))
    x = tokens()
    expected = torch.empty_like(x)
    expected[:, path] = plain(x[:, path])
    torch.testing.assert_close(along(x), expected, atol=1e-6, rtol=1e-5)
    changed = mixer(Route(path, step_feature=np.zeros(24, int)))
    assert not torch.allclose(changed(x), along(x))


@torch.no_grad()
def test_shared_parameters_are_one_set():
    paths = np.stack([PLAIN, PLAIN[::-1]])
    assert len(mixer(Route(paths, share="shared")).branches) == 1
    assert len(mixer(Route(paths)).branches) == 2
    equal = mixer(Route(np.stack([PLAIN, PLAIN]), share="shared"))
    torch.testing.assert_close(equal(tokens()), 2 * mixer(Route(PLAIN))(tokens()), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_video_letters_keep_time():
    """Layers that walk within a frame or through time return every frame to its place."""
    grid = Grid(2, 3, 4)
    for layer, kind in enumerate("sst"):
        seen = depends(mixer(route_of("zigzag-video", grid, layer), grid), grid)
        frame, place = np.divmod(np.arange(24), 6)
        same = frame if kind == "s" else place
        assert (seen <= (same[:, None] == same)).all()
        assert seen.diagonal().all(), "a token's own input is in its own output"


@pytest.mark.parametrize("name", BUILT_IN)
def test_convolution_and_scan_cost_as_much_as_is_scanned(name):
    grid = Grid(3, 4, 2) if "video" in name else GRID
    route = route_of(name, grid, 1)
    flops = mamba_cost(MambaOptions(), block=BLOCK, grid=grid, route=route).forward_flops
    tokens_scanned = grid.tokens * route.scanned_ratio
    assert flops["scan"] == pytest.approx(7 * BLOCK.inner * BLOCK.state * tokens_scanned)
    assert flops["conv"] == pytest.approx(2 * BLOCK.inner * BLOCK.conv * tokens_scanned)


@torch.no_grad()
def test_the_parts_of_a_scatter_need_no_extra_memory():
    """Each token is written once: the mixer of 16 parts makes no [B, L, E] for each of them."""
    grid = Grid(16, 16)
    made, x = mixer(route_of("atrous", grid, 0, step=4), grid, "torch"), tokens(grid)
    rows = [
        path.write_part(made.branches[k], path.read_part(x.repeat(1, 1, 2))) for k, path in enumerate(made.scan_paths)
    ]
    assert [tuple(values.shape) for _, values in rows] == [(2, 16, 32)] * 16
    assert sorted(torch.cat([visited for visited, _ in rows]).tolist()) == list(range(256))
