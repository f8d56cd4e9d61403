"""The spiral keeps the contract of a scan, and is a spiral."""

from __future__ import annotations

import numpy as np
import pytest
from zigma_bench_spiral import spiral

from zigma_bench.grid import Grid
from zigma_bench.testing import check_scan


def test_the_contract():
    report = check_scan(spiral)
    assert report.refused
    assert all("spiral is an order of one picture" in reason for reason in report.refused.values())
    assert all(case.count("x") == 2 for case in report.refused), "only clips are refused"


def test_three_by_three():
    assert spiral(Grid(3, 3)).tolist() == [4, 5, 8, 7, 6, 3, 0, 1, 2]


@pytest.mark.parametrize("n", [1, 3, 5, 9])
def test_an_odd_square_has_no_jump(n):
    rows, columns = np.divmod(spiral(Grid(n, n)), n)
    assert (abs(np.diff(rows)) + abs(np.diff(columns)) == 1).all()


@pytest.mark.parametrize("grid", [Grid(1, 6), Grid(4, 6), Grid(7, 2)])
def test_rectangles_follow_the_walk_with_cells_off_the_grid_skipped(grid):
    assert spiral(grid).tolist() == walk(grid)
    assert spiral(grid, inward=True).tolist() == walk(grid)[::-1]


def walk(grid: Grid) -> list[int]:
    """The definition, one cell at a time: arms of 1, 1, 2, 2, ... to the right, down, left, up."""
    row, column = grid.height // 2, grid.width // 2
    found = [row * grid.width + column]
    arm = 0
    while len(found) < grid.tokens:
        down, right = [(0, 1), (1, 0), (0, -1), (-1, 0)][arm % 4]
        for _ in range(arm // 2 + 1):
            row, column = row + down, column + right
            if 0 <= row < grid.height and 0 <= column < grid.width:
                found.append(row * grid.width + column)
        arm += 1
    return found
