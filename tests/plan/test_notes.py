"""Notes on a plan: paths that aren't used by equally many layers."""

from __future__ import annotations

import pytest

from zigma_bench.cli.show import show_plan
from zigma_bench.plan import make_plan
from zigma_bench.plan.notes import describe_use
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.run.prepare import plan_json
from zigma_bench.suite import load_suite
from zigma_bench.system.device import find_device

DEEP = ("width: 32, depth: 2, patch: 2}\n    scans: [raster, {name: zigzag, paths: 8}]",
        "width: 32, depth: DEPTH, patch: 2}\n    scans: [raster, SCAN]")  # fmt: skip


def notes(write_suite, depth, scan, *, smoke=False):
    old, new = DEEP
    path = write_suite((old, new.replace("DEPTH", str(depth)).replace("SCAN", scan)))
    suite, source = load_suite(path)
    return make_plan(suite, source, catalogue(), smoke=smoke)


@pytest.mark.parametrize(
    ("depth", "scan", "words"),
    [
        (12, "{name: zigzag, paths: 8}", "zigma \N{MIDDLE DOT} zigzag paths=8: 4 of its 8 paths are used by 2 layers "
         "each, and 4 by 1 layer, because 12 layers are no multiple of 8 paths"),
        (4, "sweep", "zigma \N{MIDDLE DOT} sweep paths=8: only 4 of its 8 paths are used, because 4 layers are no "
         "multiple of 8 paths"),
        (5, "{name: bidirectional, mode: layerwise, assignment: reversed}", "1 of its 2 paths are used by 3 layers"),
        (6, "four-corners", "2 of its 4 paths are used by 2 layers each, and 2 by 1 layer"),
    ],
)  # fmt: skip
def test_a_depth_that_is_no_multiple_of_the_paths_has_a_note(write_suite, depth, scan, words):
    (note,) = notes(write_suite, depth, scan).notes  # once, whatever the number of seeds
    assert words in note


@pytest.mark.parametrize(
    ("depth", "scan"),
    [(8, "sweep"), (16, "{name: zigzag, paths: 8}"), (3, "bidirectional"), (5, "random"), (5, "cross-scan")],
)
def test_other_plans_have_none(write_suite, depth, scan):
    assert notes(write_suite, depth, scan).notes == ()


def test_a_smoke_run_and_a_selection_without_the_row_have_none(write_suite):
    plan = notes(write_suite, 12, "sweep")
    assert plan.notes and not plan.only("raster").notes
    assert not notes(write_suite, 12, "sweep", smoke=True).notes


def test_a_remainder_is_divided_among_the_first_paths():
    assert describe_use(20, 8) == "4 of its 8 paths are used by 3 layers each, and 4 by 2 layers"


def test_text_and_json_of_the_command_have_them(write_suite, capsys, tmp_path):
    made, device = notes(write_suite, 12, "sweep"), find_device("cpu")
    show_plan(made, tmp_path, device)
    note = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert note.endswith("because 12 layers are no multiple of 8 paths")
    assert plan_json(made, tmp_path, device)["notes"] == [note.removeprefix("note: ")]
