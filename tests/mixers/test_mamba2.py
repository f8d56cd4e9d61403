"""The Mamba-2 mixer runs every kind of route with the documented effect, at the cost of its formula."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.backbones.zigma.facts import VisionMambaOptions, ZigmaOptions, zigma_cost
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.errors import NotReady
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.mamba2.facts import Mamba2Options, check_mamba2, mamba2_cost
from zigma_bench.mixers.mamba2.mixer import Mamba2Mixer
from zigma_bench.ops.compiler import find_compiler
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Cost
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import LearnedOrder, Route

BLOCK = ZigmaOptions(width=16, depth=2, patch=1)
OPTIONS = Mamba2Options(head_dim=4, state=8)
GRID = Grid(4, 6)
PLAIN = np.arange(24)
BACKENDS = ["naive", "torch", *(["cpu"] if find_compiler() else [])]
BUILT_IN = sorted(spec.name for spec in catalogue().scans if spec.owner == "zigma-bench")


def mixer(
    route: Route,
    grid: Grid = GRID,
    backend: str = "naive",
    options: Mamba2Options = OPTIONS,
    block: ZigmaOptions = BLOCK,
) -> Mamba2Mixer:
    made = Mamba2Mixer(options, block=block, grid=grid, route=route, backend=backend)
    initialise_network(made, 0)
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
        (y * torch.arange(y.numel()).view_as(y).sin()).sum().backward()  # a norm's square sum has no gradient
        for key, parameter in made.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().sum() > 0, key
        found.append([y.detach(), x.grad, *(p.grad for p in made.parameters())])
    for other in found[1:]:
        for mine, right in zip(other, found[0], strict=True):
            assert (mine - right).norm() <= 1e-4 * right.norm() + 1e-7


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("options", [OPTIONS, Mamba2Options(head_dim=2, state=3, groups=2)])
def test_the_cost_is_that_of_the_built_mixer(name, options):
    grid = Grid(3, 4, 2) if "video" in name else GRID
    route = route_of(name, grid, 1)
    cost = mamba2_cost(options, block=BLOCK, grid=grid, route=route)
    made = mixer(route, grid, options=options)
    assert cost.parameters == sum(p.numel() for p in made.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(tokens(grid, 1))
    assert counter.get_total_flops() == sum(v for k, v in cost.forward_flops.items() if k not in ("conv", "scan"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_scan_costs_as_much_as_is_scanned(name):
    grid = Grid(3, 4, 2) if "video" in name else GRID
    route = route_of(name, grid, 1)
    flops = mamba2_cost(OPTIONS, block=BLOCK, grid=grid, route=route).forward_flops
    assert flops["scan"] == pytest.approx(5 * BLOCK.inner * OPTIONS.state * grid.tokens * route.scanned_ratio)


def test_the_published_parameters_of_a_layer():
    """Mamba2 of d_model 768, d_state 128, headdim 64: in_proj, conv1d, dt_bias, A_log, D, norm, out_proj."""
    published = 768 * (2 * 1536 + 2 * 128 + 24) + (1536 + 256) * 5 + 3 * 24 + 1536 + 1536 * 768
    block = ZigmaOptions(width=768, depth=24, patch=2)
    cost = mamba2_cost(Mamba2Options(), block=block, grid=Grid(16, 16), route=Route(np.arange(256)))
    assert cost.parameters == published


@torch.no_grad()
def test_it_is_the_published_module_step_by_step():
    """One projection to z, x, B, C, dt; the convolution of x, B, C; the recurrence; norm of y SiLU(z); out_proj."""
    made, u = mixer(Route(PLAIN)), tokens()
    (branch,) = made.branches
    weight = torch.cat((made.in_proj.weight, branch.bcdt_proj.weight))
    z, x, B, C, dt = (u @ weight.T).split([32, 32, 8, 8, 8], -1)
    xBC = torch.cat((x, B, C), -1).transpose(1, 2)
    xBC = torch.nn.functional.conv1d(xBC, branch.conv_weight[:, None], branch.conv_bias, padding=3, groups=48)
    x, B, C = torch.nn.functional.silu(xBC[..., :24].transpose(1, 2)).split([32, 8, 8], -1)
    d, A = torch.nn.functional.softplus(dt + branch.dt_bias), -branch.A_log.exp()
    h, y = torch.zeros(2, 8, 4, 8), []
    for t in range(24):
        step = x[:, t].view(2, 8, 4)
        h = (d[:, t] * A).exp()[..., None, None] * h + torch.einsum("bh,bhp,bn->bhpn", d[:, t], step, B[:, t])
        y.append((torch.einsum("bhpn,bn->bhp", h, C[:, t]) + branch.D[:, None] * step).flatten(1))
    gated = torch.stack(y, 1) * torch.nn.functional.silu(z)
    normed = gated * (gated.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * made.norm.weight
    torch.testing.assert_close(made(u), normed @ made.out_proj.weight.T, atol=1e-5, rtol=1e-4)


def depends(made: Mamba2Mixer, grid: Grid = GRID) -> np.ndarray:
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
@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_a_segment_knows_nothing_of_the_one_before(backend):
    path = np.random.default_rng(0).permutation(24)
    seen = depends(mixer(Route(path, segments=(np.array([10, 1, 13]),)), backend=backend))
    time, segment = np.argsort(path), np.repeat([0, 1, 2], [10, 1, 13])[np.argsort(path)]
    assert (seen == ((time[:, None] >= time) & (segment[:, None] == segment))).all()


@torch.no_grad()
def test_a_scatter_keeps_its_parts_apart_and_projects_each_by_its_own_branch():
    route = route_of("atrous", GRID, 0)
    made = mixer(route)
    seen, part = depends(made), np.zeros(24, int)
    for number, path in enumerate(route.paths):
        part[path] = number
    assert (seen <= (part[:, None] == part)).all()
    assert seen.diagonal().all(), "every token is written"
    before = made(tokens())
    made.branches[2].bcdt_proj.weight.add_(1)
    assert (((made(tokens()) - before).abs().amax((0, 2)) > 0).numpy() == (part == 2)).all()


@torch.no_grad()
def test_channel_groups_of_a_concat_walk_their_own_path():
    made = mixer(Route(np.stack([PLAIN, PLAIN[::-1]]), merge="concat"))
    made.norm = torch.nn.Identity()  # which looks at all channels
    made.out_proj.weight[:, 16:] = 0  # only the first of two groups of 16 channels is in the output
    assert (depends(made) == (PLAIN[:, None] >= PLAIN)).all()


@torch.no_grad()
def test_a_cascade_reads_what_the_stage_before_wrote():
    rows = PLAIN.reshape(4, 6)
    lengths = (np.full(4, 6), np.full(6, 4))
    made = mixer(Route(np.stack([rows.reshape(-1), rows.T.reshape(-1)]), merge="cascade", segments=lengths))
    r, c = np.divmod(PLAIN, 6)
    assert (depends(made) == ((r[:, None] >= r) & (c[:, None] >= c))).all(), "along its row, then down the column"


@torch.no_grad()
def test_merges_start_equal():
    """The norm after the merge removes the scale except for its epsilon, so a sum, a mean and an even gate are
    equal."""
    paths = np.stack([PLAIN, PLAIN[::-1], np.roll(PLAIN, 5)])
    found = []
    for merge in ("sum", "mean", "gate", "channel-attention"):
        made = mixer(Route(paths, merge=merge))
        made.norm.eps = 0.0
        found.append(made(tokens()))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_learned_pads_are_read_by_what_follows_them_and_zeros_leave_nothing():
    path = np.concatenate((PLAIN[:10], [-1, -1], PLAIN[10:]))
    made = mixer(Route(path, pads=np.array([[1, 0]])))
    before = made(tokens())
    made.pads.table[1] += 1
    changed = (made(tokens()) - before).abs().amax((0, 2)) > 0
    assert (changed.numpy() == (PLAIN >= 10)).all()
    plain = mixer(Route(np.concatenate((PLAIN, [-1]))))
    assert "pads.table" not in plain.state_dict()
    torch.testing.assert_close(plain(tokens()), mixer(Route(PLAIN))(tokens()), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_pad_is_projected_like_a_token():
    """A pad with the values of a token has the same effect on the state as the token in the path of a larger grid."""
    wider = Grid(1, 25)
    made = mixer(Route(np.concatenate((PLAIN[:10], [-1], PLAIN[10:])), pads=np.array([[0]])))
    longer = mixer(Route(np.arange(25)), wider)
    longer.load_state_dict({k: v for k, v in made.state_dict().items() if k != "pads.table"}, strict=True)
    x = tokens(wider, 1)
    made.pads.table.copy_(x[0, 10:11])
    found = made(torch.cat((x[:, :10], x[:, 11:]), 1))
    expected = longer(x)
    torch.testing.assert_close(found, torch.cat((expected[:, :10], expected[:, 11:]), 1), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_step_features_belong_to_the_step_not_to_the_row():
    path = np.random.default_rng(3).permutation(24)
    ids = np.arange(24) % 5
    along, plain, x = mixer(Route(path, step_feature=ids)), mixer(Route(PLAIN, step_feature=ids)), tokens()
    expected = torch.empty_like(x)
    expected[:, path] = plain(x[:, path])
    torch.testing.assert_close(along(x), expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(mixer(Route(path, step_feature=np.zeros(24, int)))(x), along(x))


@torch.no_grad()
def test_shared_parameters_are_one_set():
    paths = np.stack([PLAIN, PLAIN[::-1]])
    assert len(mixer(Route(paths, share="shared")).branches) == 1
    assert len(mixer(Route(paths)).branches) == 2
    equal = mixer(Route(np.stack([PLAIN, PLAIN]), share="shared", merge="mean"))
    torch.testing.assert_close(equal(tokens()), mixer(Route(PLAIN))(tokens()), atol=1e-6, rtol=1e-5)


@dataclass(frozen=True)
class ReverseOptions:
    """None."""


class Reverse(torch.nn.Module):
    """Path 0 is the raster and path 1 its reverse for the second sample, the raster for the first."""

    def __init__(self, options, *, width, grid, layer, depth):
        super().__init__()
        self.tokens = grid.tokens

    def forward(self, x):
        paths = torch.arange(self.tokens).expand(len(x), 2, -1).clone()
        paths[1, 1] = paths[1, 1].flip(0)
        return paths, None


@torch.no_grad()
def test_a_learned_order_is_one_a_sample():
    learned = LearnedOrder(
        "here:Reverse", {}, 0, 2, lambda options, width, grid: Cost(0, {"sort": 7}), lambda: Reverse, lambda _: None
    )
    made = mixer(Route(np.stack([PLAIN, PLAIN]), learned=learned))
    cost = mamba2_cost(OPTIONS, block=BLOCK, grid=GRID, route=Route(np.stack([PLAIN, PLAIN]), learned=learned))
    assert cost.forward_flops["order"] == 7
    assert cost.parameters == sum(p.numel() for p in made.parameters())
    for sample, path in enumerate((PLAIN, PLAIN[::-1])):
        fixed = mixer(Route(np.stack([PLAIN, path])))
        torch.testing.assert_close(made(tokens())[sample], fixed(tokens())[sample], atol=1e-6, rtol=1e-5)


def test_first_weights_belong_to_their_names():
    """Layers of one and of two paths have the same initial weights for common parameters, in the published ranges."""
    block = ZigmaOptions(width=512, depth=2, patch=1)
    one = mixer(Route(PLAIN), block=block)
    two = mixer(Route(np.stack([PLAIN, PLAIN[::-1]])), block=block)
    again = mixer(Route(PLAIN), block=block)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
        assert torch.equal(value, again.state_dict()[name]), name
    (branch,) = one.branches
    decay, dt = branch.A_log.exp(), torch.nn.functional.softplus(branch.dt_bias)
    assert 1 <= decay.min() < 2 and 15 < decay.max() <= 16
    assert dt.min() > 0.999e-3 and 0.05 < dt.max() <= 0.1001
    assert torch.equal(branch.D, torch.ones(256)) and torch.equal(one.norm.weight, torch.ones(1024))
    assert 0.9 * 0.5 < branch.conv_weight.abs().max() <= 0.5
    assert not torch.equal(two.branches[0].A_log, two.branches[1].A_log)
    official = mixer(Route(np.stack([PLAIN, PLAIN])), block=VisionMambaOptions(16, 2, 1, init="official"))
    assert official.branches[0].dt_bias.any() and not official.branches[1].dt_bias.any()


@pytest.mark.parametrize(
    ("options", "block", "route", "words"),
    [
        (Mamba2Options(), BLOCK, Route(PLAIN), "heads of 64 channels do not divide the 32 inner channels"),
        (OPTIONS, BLOCK, Route([PLAIN] * 3, merge="concat"), "32 inner channels are not a multiple of 3"),
        (Mamba2Options(head_dim=32), BLOCK, Route([PLAIN] * 2, merge="concat"), "do not divide the 16 inner channels"),
        (Mamba2Options(head_dim=4, groups=3), BLOCK, Route(PLAIN), "3 groups do not divide the 8 heads"),
        (OPTIONS, ZigmaOptions(16, 2, 1, state=8), Route(PLAIN), r"expected 16 \(its default\); got 8; leave it out"),
    ],
)
def test_what_does_not_fit_is_refused(options, block, route, words):
    check_mamba2(OPTIONS, block=BLOCK, grid=GRID, route=Route(PLAIN))
    with pytest.raises(NotReady, match=words):
        check_mamba2(options, block=block, grid=GRID, route=route)


def test_a_backbone_of_it_costs_what_it_says():
    chosen = {"name": "mamba-2", "owner": "zigma-bench", "options": {"head_dim": 16, "state": 8, "groups": 1}}
    options = ZigmaOptions(width=32, depth=2, patch=1, mixer=chosen)
    made = [Route(PLAIN), Route(np.stack([PLAIN, PLAIN[::-1]]))]
    network = Zigma(options, grid=GRID, channels=1, routes=made, backend="torch")
    assert all(isinstance(block.mixer, Mamba2Mixer) for block in network.blocks)
    cost = zigma_cost(options, grid=GRID, channels=1, routes=made)
    assert cost.parameters == sum(p.numel() for p in network.parameters())


def test_a_suite_trains_it(write_suite, tmp_path):
    path = write_suite(
        (
            "{name: zigma, width: 32, depth: 2, patch: 2}",
            "{name: zigma, width: 32, depth: 2, patch: 2, mixer: mamba-2}",
        ),
        ("  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n", ""),
        ("seeds: [0, 1]", "seeds: [0]"),
    )
    command = [sys.executable, "-m", "zigma_bench", "run", str(path), "--results", str(tmp_path / "results"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = [row for row in json.loads(done.stdout)["rows"] if row["role"] == "cell"]
    assert len(cells) == 2
    for row in cells:
        assert row["status"] == "done"
        assert "mamba-2" in row["backbone"]
        assert np.isfinite(row["metrics"]["val-loss"]["mean"])
    assert len({row["metrics"]["val-loss"]["mean"] for row in cells}) == 2, "the order reaches the network"
