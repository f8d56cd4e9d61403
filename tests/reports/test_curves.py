"""The page of an efficiency suite's curves: its content, and the errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_curves import curves, row, table
from PIL import Image
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.errors import UsageError
from zigma_bench.reports.curves import draw_curves

ROOT = Path(__file__).parents[2]
RACE = {"dit": (100, 2), "zigma": (50, 1)}  # which cross at 2,048 tokens


def words(svg: Path) -> set[str]:
    return set(re.findall(r"<!-- (.*?) -->", svg.read_text()))


def test_a_panel_for_each_speed_and_batch_with_its_curves_and_crossings(tmp_path):
    rows = [*curves(RACE), *curves(RACE, batch=16, name="forward-images-per-second")]
    rows += curves({"dit": (1, 1), "zigma": (2, 1)}, unit="bytes", name="train-step-peak-memory")
    draw_curves([table(*rows)], file := tmp_path / "new" / "lengths.svg")
    shown = words(file)
    assert {
        "train-images-per-second, batch 1: higher is better",
        "forward-images-per-second, batch 16: higher is better",
    } < shown
    assert {"zigma", "dit", "2,048", "tokens", "suite: Why?"} < shown and not any("memory" in word for word in shown)


def test_crossings_that_would_hide_each_other_are_counted(tmp_path):
    many = {f"zigma {number}": (20 * number, 1) for number in range(1, 8)}
    draw_curves([table(*curves({"dit": (300, 2), **many}))], file := tmp_path / "a.svg")
    assert "7 crossings: see the report" in words(file) and "2,048" not in words(file)


def test_the_curves_of_the_records_are_drawn(tmp_path):
    file = tmp_path / "lengths.png"
    done = CliRunner().invoke(app, ["report", str(ROOT / "results" / "efficiency"), "--plot", str(file), "--json"])
    assert done.exit_code == 0, done.output
    assert {row["suite"] for row in json.loads(done.stdout)["rows"]} == {"efficiency"}
    with Image.open(file) as image:
        assert image.width > image.height > 400


def test_what_can_not_be_drawn(tmp_path):
    race, file = table(*curves(RACE)), tmp_path / "a.png"
    with pytest.raises(UsageError, match=r"--plot.*ends with .png or .svg; got 'lengths.pngg'.*did you mean '.png'"):
        draw_curves([race], tmp_path / "lengths.pngg")
    alone = table(row("zigma", 256, 1.0), row("dit", 256, 2.0))
    with pytest.raises(UsageError, match=r"timed at two lengths or more.*none among 1 table"):
        draw_curves([alone], file)
    draw_curves([alone, race], file)
    with pytest.raises(UsageError, match="got 'suite, other'; name the folder"):
        draw_curves([race, replace(race, suite="other")], file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
