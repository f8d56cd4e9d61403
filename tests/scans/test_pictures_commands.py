"""`scans show` and `compare`: drawings, output and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from zigma_bench.cli.scans_common import find_written
from zigma_bench.scans import pictures


def test_show_writes_what_is_asked_for_and_no_more(tmp_path, call, words_of, frames):
    names = {kind: str(tmp_path / f"new/{kind}.{kind}") for kind in ("png", "svg", "gif")}
    words = [word for kind, name in names.items() for word in (f"--{kind}", name)]
    out = call("show", "zigzag", "--grid", "3x4", "--depth", "3", "--set", "paths=2", "--layer", "1", *words)
    assert "layer 1\n" in out and "layer 0" not in out
    assert "o↓ → ↓" in out
    assert frames(tmp_path / "new/gif.gif") == 12
    assert "zigzag, paths 2, layer 1" in words_of(tmp_path / "new/svg.svg")
    call("show", "zigzag", "--grid", "3x4", "--png", str(tmp_path / "alone.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.png", "new"]


def test_show_tells_layers_and_figures(call):
    out = call("show", "bidirectional", "--grid", "2x3", "--depth", "3")
    assert "layer 0, 1, 2\n" in out
    for heading in ("scanned / L", "4-neighbours", "d=1", "d=4", "pads", "merge"):
        assert heading in out
    assert "first k layers: 57%, 57%, 57%" in out
    found = json.loads(call("show", "bidirectional", "--grid", "2x3", "--depth", "3", "--json"))
    assert found["coverage"] == [4 / 7] * 3
    assert found["layers"][2]["stats"]["sequence_distance"] == {
        "1": (4 * 1 + 3 * 3) / 7,
        "2": (2 * 2 + 2 * 4 + 2 * 2) / 6,
    }


@pytest.mark.parametrize("words", [["show", "zigzag", "--gif"], ["compare", "raster", "zigzag", "--svg"]])
def test_the_line_about_a_file_comes_last(words, tmp_path):
    """Also where both streams go to one file, and standard output waits for more."""
    path = tmp_path / f"a.{words[-1][2:]}"
    command = [sys.executable, "-m", "zigma_bench", "scans", *words, str(path), "--grid", "4x4"]
    waiting = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=waiting)
    assert done.returncode == 0, done.stdout
    *before, last, end = done.stdout.split("\n")
    assert (last, end) == (f"wrote {path}", "")
    assert "first k layers" in before[-1]


def test_compare_tabulates_and_draws(tmp_path, call):
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    words = ["compare", "raster", "zigzag:paths=2", "bidirectional", "--grid", "3x3", "--depth", "4"]
    out = call(*words, "--png", str(png), "--svg", str(svg))
    for text in ("zigzag:paths=2", "k=1", "k=4", "distinct layers", "d=4", "8-neighbours"):
        assert text in out
    assert "k=8" not in out
    assert "distance on the grid" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    rows = {row["scan"]: row for row in json.loads(call(*words, "--json"))["scans"]}
    assert list(rows) == ["raster", "zigzag:paths=2", "bidirectional"]
    zigzag = rows["zigzag:paths=2"]
    assert (zigzag["options"]["paths"], zigzag["distinct_layers"], zigzag["largest_step"]) == (2, 2, 1)
    assert zigzag["coverage"] == [8 / 12, 1.0, 1.0, 1.0]
    assert (rows["bidirectional"]["paths"], rows["bidirectional"]["scanned_ratio"]) == ([2], 2.0)
    assert rows["raster"]["sequence_distance"]["1"] == 2.0
    assert rows["raster"]["mean_step"] == (6 * 1 + 2 * 3) / 8


def test_options_are_written_behind_a_colon(call):
    found = find_written("zigzag:paths=2", "3x3", depth=1, seed=0)
    assert (found.name, found.label, found.written) == ("zigzag", "zigzag:paths=2", {"paths": 2})
    assert "zigzag:paths" in call("compare", "zigzag:paths", code=2)
    assert "no option 'path'; " in call("compare", "zigzag:path=2", code=2).replace("zigzag' has ", "")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["show", "raster", "--png", "x.gif"], 2, "--png x.gif: the file name doesn't end in .png"),
        (["compare", "raster", "--svg", "x"], 2, "expected a name that ends in .svg; got 'x'"),
        (["show", "raster", "--gif", "/proc/x.gif"], 3, "/proc/x.gif: the picture can't be written"),
        (["gallery"], 2, "nothing to write; expected --png FILE or --svg FILE"),
        (["gallery", "--png", "a.png", "--depth", "0"], 2, "--depth"),
        (["compare", "raste"], 2, "did you mean 'raster'?"),
        (["compare", "zigzag", "--grid", "2x3x3"], 3, "order for single images"),
    ],
)
def test_errors_say_where(words, code, told, call):
    assert told in call(*words, code=code)


def test_matplotlib_comes_only_with_a_picture():
    code = (
        "import sys, zigma_bench.cli.app, zigma_bench.scans.pictures\n"
        "from zigma_bench.cli import scans_compare, scans_gallery, scans_show\n"
        "assert not {'matplotlib', 'torch', 'pandas', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pictures.FRAMES == 120
