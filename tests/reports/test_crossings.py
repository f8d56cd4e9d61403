"""Curves over length with known crossings, without crossings, and with missing points."""

from __future__ import annotations

import pytest
from made_curves import LENGTHS, curves, row, table

from zigma_bench.reports.crossings import find_crossings
from zigma_bench.reports.render import table_footer


def test_two_powers_cross_where_algebra_says():
    """100 (n / 1024)^-2 and 50 (n / 1024)^-1 are equal at n = 2048."""
    (found,) = find_crossings(table(*curves({"dit": (100, 2), "zigma": (50, 1)})))
    assert (found.ahead, found.behind, found.batch) == ("zigma", "dit", 1)
    assert found.tokens == pytest.approx(2048)
    assert str(found) == "train-images-per-second, batch 1: zigma overtakes dit at about 2,048 tokens"


def test_seconds_are_better_where_they_are_fewer():
    rows = [row(name, n, c * (n / 1024) ** e, unit="s", name="latency") for name, c, e in
            (("dit", 1, 2), ("zigma", 2, 1)) for n in LENGTHS]  # fmt: skip
    (found,) = find_crossings(table(*rows))
    assert (found.ahead, found.behind, found.tokens) == ("zigma", "dit", pytest.approx(2048))


def test_incomparable_curves_have_no_crossings():
    apart = curves({"dit": (100, 1), "zigma": (50, 1)})  # never meet
    memory = curves({"dit": (100, 2), "zigma": (50, 1)}, unit="bytes", name="train-step-peak-memory")
    batches = curves({"dit": (100, 2)}, batch=1) + curves({"zigma": (50, 1)}, batch=16)
    scans = curves({"zigma": (100, 2)}, scan="raster") + curves({"zigma": (50, 1)}, scan="zigzag")
    for rows in (apart, memory, batches, scans):
        assert find_crossings(table(*rows)) == []


def test_a_length_without_a_figure_is_passed_over():
    """Around a missing length, the curves are interpolated as lines in logarithms."""
    rows = [one for one in curves({"dit": (100, 2), "zigma": (50, 1)}) if one.setting["tokens"] != 4096]
    rows.append(row("dit", 4096, None))
    (found,) = find_crossings(table(*rows))
    assert found.tokens == pytest.approx(2048)


def test_backends_of_one_network_are_distinguished_and_the_footer_names_all():
    rows = curves({"dit": (100, 2)}) + curves({"zigma": (50, 1)}, backend="fused")
    rows += curves({"zigma": (25, 1)}, backend="torch")
    lines = table_footer(table(*rows))
    assert "train-images-per-second, batch 1: zigma (fused) overtakes dit at about 2,048 tokens." in lines
    assert "train-images-per-second, batch 1: zigma (torch) overtakes dit at about 4,096 tokens." in lines


def test_curves_that_meet_at_a_length_that_was_timed_cross_there():
    rows = [row("dit", n, v) for n, v in ((256, 8), (1024, 4), (4096, 2))]
    rows += [row("zigma", n, v) for n, v in ((256, 6), (1024, 4), (4096, 3))]
    (found,) = find_crossings(table(*rows))
    assert (found.ahead, found.tokens) == ("zigma", pytest.approx(1024))
