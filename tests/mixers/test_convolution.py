"""The convolution of the Mamba mixer: along the path, on the grid, or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.errors import NotReady
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.mamba import mixer as mixer_module
from zigma_bench.mixers.mamba.facts import MambaOptions, check_mamba, mamba_cost
from zigma_bench.mixers.mamba.mixer import MambaMixer
from zigma_bench.ops.compiler import find_compiler
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import Route

BLOCK = ZigmaOptions(width=16, depth=2, patch=1, state=4)
GRID = Grid(4, 6)
CLIP = Grid(3, 4, 2)
PLAIN = np.arange(24)
MIXED = np.random.default_rng(0).permutation(24)
BACKENDS = ["naive", "torch", *(["cpu"] if find_compiler() else [])]
OTHERS = [MambaOptions("grid"), MambaOptions("grid", kernel=5), MambaOptions("none")]
BUILT_IN = sorted(spec.name for spec in catalogue().scans if spec.owner == "zigma-bench")


def mixer(options: MambaOptions, route: Route, grid: Grid = GRID, backend: str = "naive") -> MambaMixer:
    made = MambaMixer(options, block=BLOCK, grid=grid, route=route, backend=backend)
    initialise_network(made, 0)
    return made


def tokens(grid: Grid = GRID) -> torch.Tensor:
    return torch.randn(2, grid.tokens, 16, generator=torch.Generator().manual_seed(1))


def route_of(name: str, grid: Grid) -> Route:
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=grid, depth=8, seed=0, options=spec.resolve({}, where="test"))[3]


@pytest.mark.parametrize("options", OTHERS, ids=str)
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_scan_forwards_and_backwards_on_every_backend(name, options):
    grid = CLIP if "video" in name else GRID
    route = route_of(name, grid)
    found = []
    for backend in BACKENDS:
        made, x = mixer(options, route, grid, backend), tokens(grid).requires_grad_()
        y = made(x)
        y.square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in made.parameters())
        found.append([y.detach(), x.grad, *(p.grad for p in made.parameters())])
    for other in found[1:]:
        for mine, right in zip(other, found[0], strict=True):
            assert (mine - right).norm() <= 1e-4 * right.norm() + 1e-7


@pytest.mark.parametrize("options", OTHERS, ids=str)
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_cost_is_that_of_the_built_mixer(name, options):
    grid = CLIP if "video" in name else GRID
    route = route_of(name, grid)
    cost = mamba_cost(options, block=BLOCK, grid=grid, route=route)
    made = mixer(options, route, grid)
    assert cost.parameters == sum(p.numel() for p in made.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(tokens(grid)[:1])
    assert counter.get_total_flops() == sum(v for k, v in cost.forward_flops.items() if k != "scan")


@torch.no_grad()
@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_the_order_enters_only_through_the_scan(options, monkeypatch):
    """With a scan in which each step keeps to itself, every order gives the same output; along a path it doesn't."""

    def stepwise(u, delta, A, B, C, *, D, z, delta_bias, **_):
        return u * nn.functional.silu(z)

    monkeypatch.setattr(mixer_module, "selective_scan", stepwise)
    torch.testing.assert_close(mixer(options, Route(MIXED))(tokens()), mixer(options, Route(PLAIN))(tokens()))
    along = MambaOptions()
    assert not torch.allclose(mixer(along, Route(MIXED))(tokens()), mixer(along, Route(PLAIN))(tokens()), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_the_output_is_that_of_a_plain_computation(options):
    """The scan alone of the convolved grid, in the order of the path."""
    made, x = mixer(options, Route(MIXED)), tokens()
    rows, z = made.in_proj(x).chunk(2, dim=-1)
    if options.convolution == "grid":
        conv = nn.Conv2d(32, 32, options.kernel, padding=options.kernel // 2, groups=32)
        conv.load_state_dict(made.grid_conv.state_dict())
        rows = conv(rows.unflatten(1, (4, 6)).movedim(-1, 1)).movedim(1, -1).flatten(1, 2)
    u = nn.functional.silu(rows)
    expected = made.out_proj(made.branches[0](u, z, torch.from_numpy(MIXED), None, None))
    torch.testing.assert_close(made(x), expected)


@torch.no_grad()
def test_a_clip_is_convolved_frame_by_frame():
    made, x = mixer(MambaOptions("grid"), Route(np.arange(24)), CLIP), tokens(CLIP)
    before, changed = made.grid_conv(made.in_proj(x, apart=True)[0]), x.clone()
    changed[:, 0] += 1  # top left of the first frame
    after = made.grid_conv(made.in_proj(changed, apart=True)[0])
    assert np.flatnonzero((after - before).abs().amax((0, 2)).numpy()).tolist() == [0, 1, 4, 5]


def test_the_defaults_have_mambas_own_weights():
    names = {name for name, _ in mixer(MambaOptions(), Route(PLAIN)).named_parameters()}
    assert {"branches.0.conv_weight", "branches.0.conv_bias"} <= names
    assert not any("grid_conv" in name for name in names)
    on_grid = dict(mixer(MambaOptions("grid"), Route(np.stack([PLAIN, MIXED]))).named_parameters())
    assert on_grid["grid_conv.weight"].shape == (32, 1, 3, 3)
    assert on_grid["grid_conv.weight"].abs().max() <= 1 / 3
    assert not any("conv_weight" in name for name in on_grid)


@pytest.mark.parametrize(
    ("options", "block", "route", "what"),
    [
        (MambaOptions("none", kernel=5), BLOCK, Route(PLAIN), "option kernel is for a convolution on the grid"),
        (MambaOptions("grid"), ZigmaOptions(16, 2, 1, conv=3), Route(PLAIN), "doesn't use the backbone's option conv"),
        (MambaOptions("none"), BLOCK, Route(np.stack([PLAIN, MIXED]), merge="cascade"), "each stage of the scan has"),
    ],
)
def test_what_does_not_fit_is_refused(options, block, route, what):
    with pytest.raises(NotReady, match=what):
        check_mamba(options, block=block, grid=GRID, route=route)
