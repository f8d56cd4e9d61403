"""The recurrence follows its equations, sees the right tokens, and has the cost of its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from zigma_bench_v2m import V2mOptions, check, cost
from zigma_bench_v2m.mixer import Recurrence, V2mMixer

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.errors import NotReady
from zigma_bench.layers.init import initialise_network
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

GRID = Grid(3, 4)
BLOCK = ZigmaOptions(width=8, depth=2, patch=1, state=3)
RASTER = Route(np.arange(12))


def mixer(corners: int) -> V2mMixer:
    made = V2mMixer(V2mOptions(corners=corners), block=BLOCK, grid=GRID, route=RASTER, backend="torch")
    initialise_network(made, 0)
    return made


def test_the_recurrence_cell_by_cell():
    rng = torch.Generator().manual_seed(0)
    u, dt, B, C = (torch.randn(2, 3, 4, n, generator=rng) for n in (5, 2, 3, 3))
    made = Recurrence(5, 3, 2)
    initialise_network(made, 1)
    with torch.no_grad():
        d = torch.nn.functional.softplus(dt @ made.dt_weight.T + made.dt_bias)[..., None]
        rows, columns = (-torch.exp(A) for A in (made.A_log_row, made.A_log_column))
        g, h, y = torch.zeros(2, 3, 4, 5, 3), torch.zeros(2, 3, 4, 5, 3), torch.zeros(2, 3, 4, 5)
        for i in range(3):
            for j in range(4):
                enters = d[:, i, j] * u[:, i, j, :, None] * B[:, i, j, None]
                g[:, i, j] = enters + (torch.exp(d[:, i, j] * rows) * g[:, i, j - 1] if j else 0)
                h[:, i, j] = g[:, i, j] + (torch.exp(d[:, i, j] * columns) * h[:, i - 1, j] if i else 0)
                y[:, i, j] = (h[:, i, j] * C[:, i, j, None]).sum(-1) + made.D * u[:, i, j]
        torch.testing.assert_close(made(u, made.step_size(dt), B, C, ()), y)
        turned = [tensor.flip(1, 2) for tensor in (u, made.step_size(dt), B, C)]
        torch.testing.assert_close(made(*turned, (1, 2)).flip(1, 2), y)


@torch.no_grad()
@pytest.mark.parametrize("corners", [1, 2, 4])
def test_a_token_sees_the_rectangle_to_each_corner(corners):
    made = mixer(corners)
    made.conv.weight.zero_()
    made.conv.weight[:, :, 1, 1] = 1  # the convolution looks at the cell alone
    x = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(0))
    seen = np.zeros((12, 12), dtype=bool)
    for j in range(12):
        changed = x.clone()
        changed[:, j] += 1
        seen[:, j] = (made(changed) - made(x)).abs().amax((0, 2)).numpy() > 0
    r, c = np.divmod(np.arange(12), 4)
    down, right = r[:, None] - r, c[:, None] - c
    sees = [
        (down >= 0) & (right >= 0),
        (down <= 0) & (right <= 0),
        (down <= 0) & (right >= 0),
        (down >= 0) & (right <= 0),
    ]
    assert (seen == np.any(sees[:corners], axis=0)).all()


def test_gradients_and_cost():
    made = mixer(4)
    made(torch.randn(2, 12, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
    formula = cost(V2mOptions(), block=BLOCK, grid=GRID, route=RASTER)
    assert formula.parameters == sum(p.numel() for p in made.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(torch.randn(1, 12, 8))
    assert counter.get_total_flops() == sum(v for k, v in formula.forward_flops.items() if k != "scan")


def test_other_orders_are_refused():
    check(V2mOptions(), block=BLOCK, grid=GRID, route=RASTER)
    for route, grid in (
        (Route(np.arange(12)[::-1]), GRID),
        (Route([np.arange(12)] * 2), GRID),
        (RASTER, Grid(3, 2, 2)),
    ):
        with pytest.raises(NotReady, match="follows no scan"):
            check(V2mOptions(), block=BLOCK, grid=grid, route=route)
