"""ZigMa and VisionMamba against the official network's forward passes, and the contracts of their parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import CASES, golden_condition, golden_input, golden_output, official_weights

from zigma_bench.backbones.official import load_official
from zigma_bench.backbones.zigma.facts import VisionMambaOptions, ZigmaOptions
from zigma_bench.backbones.zigma.network import VisionMamba, Zigma
from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.registry import scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.straight import bidirectional, raster
from zigma_bench.scans.orders.zigzag import zigzag
from zigma_bench.scans.route import Route

GRID = Grid(4, 4)


def orders(function, depth, grid=GRID, **options):
    spec = scan_spec(function.__name__, function, owner="test")
    return layer_routes(spec, grid=grid, depth=depth, seed=0, options=spec.resolve(options, where="test"))


def small(residual="official", drop_path=0.0, positions="learned", **rest):
    return ZigmaOptions(width=16, depth=3, patch=1, residual=residual, drop_path=drop_path, positions=positions, **rest)


@pytest.mark.parametrize("backend", ["naive", "torch", "cpu"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_equals_the_official_network(case, backend):
    golden = CASES[case]
    network = load_official("zigma", official_weights(golden["param_order"]), golden["config"], backend=backend)
    assert sum(p.numel() for p in network.parameters()) == golden["n_params"]
    with torch.no_grad():
        out = network(golden_input(golden["input_shape"]), torch.tensor(golden["t"]), golden_condition(golden))
    np.testing.assert_allclose(out.numpy(), golden_output(golden), atol=1e-4, rtol=0)


def test_another_order_gives_another_output():
    golden = CASES["zigzagN8_uncond_d3"]
    weights = official_weights(golden["param_order"])
    network = load_official("zigma", weights, {**golden["config"], "scan_type": "zigzagN2"}, backend="naive")
    with torch.no_grad():
        out = network(golden_input(golden["input_shape"]), torch.tensor(golden["t"])).numpy()
    assert np.abs(out - golden_output(golden)).max() > 1e-3


def test_a_mixer_along_a_path_is_a_raster_mixer_on_permuted_tokens():
    """unscan(mixer(scan(x))) for a path that is not its own inverse, on a grid that is not square."""
    grid, rng = Grid(3, 5), np.random.default_rng(0)
    path = rng.permutation(grid.tokens)
    assert not np.array_equal(path[path], np.arange(grid.tokens))
    options = small()
    along = Zigma(options, grid=grid, channels=1, routes=[Route(path[None])] * 3, backend="torch")
    plain = Zigma(options, grid=grid, channels=1, routes=orders(raster, 3, grid), backend="torch")
    initialise_network(along, 0)
    initialise_network(plain, 0)
    x = torch.randn(2, grid.tokens, 16, generator=torch.Generator().manual_seed(0))
    index = torch.from_numpy(path)
    expected = torch.empty_like(x)
    expected[:, index] = plain.blocks[0].mixer(x[:, index])
    torch.testing.assert_close(along.blocks[0].mixer(x), expected, atol=1e-6, rtol=1e-5)


def test_first_weights_belong_to_seed_and_name():
    one = Zigma(small(), grid=GRID, channels=1, routes=orders(raster, 3), backend="torch")
    other = Zigma(small(), grid=GRID, channels=1, routes=orders(zigzag, 3, paths=8), backend="naive")
    torch.manual_seed(1)
    initialise_network(one, 5)
    torch.manual_seed(2)
    initialise_network(other, 5)
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    initialise_network(other, 6)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_every_parameter_is_initialised():
    network = Zigma(small(), grid=GRID, channels=1, routes=orders(bidirectional, 3), backend="torch")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    initialise_network(network, 0)
    assert all(p.isfinite().all() for p in network.parameters())


def test_at_the_start_a_block_adds_its_norm_officially_and_nothing_in_the_textbook():
    x, t = torch.randn(2, 1, 4, 4), torch.tensor([0.1, 0.9])
    for residual, growing in (("official", True), ("textbook", False)):
        network = Zigma(small(residual), grid=GRID, channels=1, routes=orders(raster, 3), backend="torch")
        initialise_network(network, 0)
        sizes: list[float] = []
        for block in network.blocks:
            block.register_forward_hook(lambda _m, _i, out, sizes=sizes: sizes.append(out[1].norm().item()))
        network.eval()(x, t)
        assert (sizes[2] > sizes[1] > sizes[0]) is growing
        if not growing:
            assert sizes[0] == pytest.approx(sizes[2])


def test_dropped_paths_act_in_training_alone():
    network = Zigma(small(drop_path=0.9), grid=GRID, channels=1, routes=orders(raster, 3), backend="torch")
    initialise_network(network, 0)
    x, t = torch.randn(8, 1, 4, 4), torch.rand(8)
    assert torch.equal(network.eval()(x, t), network(x, t))
    torch.manual_seed(0)
    first = network.train()(x, t)
    torch.manual_seed(0)
    assert torch.equal(first, network(x, t))
    assert not torch.equal(first, network(x, t))


def test_gradients_reach_every_parameter():
    network = Zigma(small(), grid=GRID, channels=1, routes=orders(bidirectional, 3), backend="cpu")
    initialise_network(network, 0)
    with torch.no_grad():
        for block in network.blocks:
            block.modulation.weight.fill_(0.1)  # open the gates that start at zero
    network(torch.randn(2, 1, 4, 4), torch.rand(2)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_official_backward_branch_starts_with_a_zero_dt_bias():
    for init, zero in (("official", True), ("like-forward", False)):
        options = VisionMambaOptions(width=16, depth=1, patch=1, init=init)
        network = VisionMamba(options, grid=GRID, channels=1, routes=orders(bidirectional, 1), backend="torch")
        initialise_network(network, 0)
        branches = network.blocks[0].mixer.branches
        assert (branches[1].dt_bias == 0).all().item() is zero
        assert (branches[0].dt_bias != 0).all()
