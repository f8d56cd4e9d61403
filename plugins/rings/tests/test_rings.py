"""The order follows the contract of a scan and goes around in rings."""

from __future__ import annotations

import numpy as np
import pytest
from zigma_bench_rings import rings

from zigma_bench.scans.grid import Grid
from zigma_bench.testing import check_scan


def test_the_contract():
    report = check_scan(rings)
    assert report.refused
    assert all("rings is an order for single images" in reason for reason in report.refused.values())
    assert all(case.count("x") == 2 for case in report.refused), "only clips are refused"


def test_small_grids_by_hand():
    assert rings(Grid(3, 3)).tolist() == [0, 1, 2, 5, 8, 7, 6, 3, 4]
    assert rings(Grid(3, 4)).tolist() == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6]
    assert rings(Grid(4, 1), outward=True).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("grid", [Grid(1, 6), Grid(4, 6), Grid(7, 2), Grid(9, 9), Grid(8, 12)])
def test_every_step_goes_to_a_neighbour(grid):
    rows, columns = np.divmod(rings(grid), grid.width)
    assert (abs(np.diff(rows)) + abs(np.diff(columns)) == 1).all()
