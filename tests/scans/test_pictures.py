"""Drawings of paths for a page: what is drawn where, the files, and the commands that write them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zigma_bench import registry
from zigma_bench.cli import show_scan
from zigma_bench.cli.app import app
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.grid import Grid
from zigma_bench.plugins import Catalogue, catalogue
from zigma_bench.scans import pictures
from zigma_bench.scans.pictures import Block, Panel, page, runs, save_gif, save_png, save_svg, track
from zigma_bench.scans.route import BrokenScan, Route

SQUARE = Grid(2, 2)
RASTER = Route(range(4))


def call(*words: str, code: int = 0) -> str:
    """The standard output of a command that must end so."""
    done = CliRunner().invoke(app, ["scans", *words])
    if code:
        assert getattr(done.exception, "exit_code", None) == code, done.exception
        return str(done.exception)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def block(route: Route, grid: Grid, caption: str = "a caption") -> Block:
    return Block((Panel(grid, route),), caption)


def words_of(path: Path) -> str:
    """All that an SVG of Matplotlib says, line after line."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text()))


def frames(path: Path) -> int:
    with Image.open(path) as image:
        assert image.format == "GIF"
        return image.n_frames


# Tracks


def test_a_path_on_the_plane():
    """0 1 / 2 3 in raster order: right, a diagonal to a neighbour, right; x is the column."""
    found = track(RASTER, 0, SQUARE)
    assert found.points.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert found.link.tolist() == ["step"] * 3
    assert (found.shades, found.shade.tolist()) == (4, [0, 1, 2, 3])
    assert len(found.pads) == len(found.ends) == 0


def test_jumps_resets_and_pads():
    found = track(Route([0, 2, -1, 1, 3], segments=[4, 1]), 0, Grid(1, 4))
    assert found.link.tolist() == ["jump", "", ""]
    assert found.pads.tolist() == [[1.5, 0]], "half a cell from token 2 towards token 1"
    assert found.ends.tolist() == [[0, 0], [1, 0], [3, 0]], "the last segment is one token, and ends where it begins"


def test_pads_before_after_and_alone():
    found = track(Route([-1, 0, 1, -1, -1]), 0, Grid(1, 2))
    assert found.pads.tolist() == [[-0.5, 0], [1.5, 0]]
    assert track(Route([-1, 0]), 0, Grid(1, 1)).pads.tolist() == [[-0.5, 0]]
    ends = track(Route([0, 1, 2, -1, 3, 4, 5]), 0, Grid(2, 3)).pads
    assert ends.tolist() == [[2.5, 0]], "at the end of a line a pad lies ahead, not on the line"
    assert len(track(Route([[0], [-1]], merge="scatter"), 1, Grid(1, 1)).pads) == 0


def test_frames_of_a_clip_stand_side_by_side():
    found = track(Route([0, 2, 3, 1]), 0, Grid(1, 2, frames=2))
    assert found.points[:, 0].tolist() == [0, 3, 4, 1]
    assert found.link.tolist() == ["jump", "step", "jump"]


def test_lines_are_unbroken_stretches_of_one_shade():
    found = track(Route(range(240)), 0, Grid(1, 240))
    lines = runs(found, "step")
    assert found.shades == 120
    assert [shade for _, shade in lines] == list(range(120))
    assert sum(len(line) - 1 for line, _ in lines) == 239
    assert runs(found, "jump") == []
    both = track(Route([0, 1, 3, 2]), 0, Grid(1, 4))
    assert [line.tolist() for line, _ in runs(both, "jump")] == [[[1, 0], [3, 0]]]
    assert [line.tolist() for line, _ in runs(both, "step")] == [[[0, 0], [1, 0]], [[3, 0], [2, 0]]]


# Files

ROUTES = {
    "plain": (RASTER, SQUARE),
    "one token": (Route([0]), Grid(1, 1)),
    "row": (Route(range(5)), Grid(1, 5)),
    "long row": (Route(range(300)), Grid(1, 300)),
    "clip": (Route(range(8)), Grid(2, 2, frames=2)),
    "segments": (Route(range(4), segments=[1, 3]), SQUARE),
    "pads": (Route([-1, 0, 1, -1, 2, 3, -1], pads=[0, 1, 2]), SQUARE),
    "scatter": (Route([[0, 3], [1, 2]], merge="scatter"), SQUARE),
    "jumps": (Route(np.random.default_rng(0).permutation(64 * 64)), Grid(64, 64)),
}


@pytest.mark.parametrize("name", ROUTES)
def test_pictures_of_every_kind_of_route(name, tmp_path):
    route, grid = ROUTES[name]
    figure = page([block(route, grid)], title="A title")
    save_png(figure, tmp_path / "a.png")
    save_svg(figure, tmp_path / "a.svg")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 600
    root = ElementTree.fromstring((tmp_path / "a.svg").read_text())
    assert root.tag.endswith("}svg")
    assert "a caption" in (tmp_path / "a.svg").read_text()
    save_gif([block(route, grid)], tmp_path / "a.gif")
    assert frames(tmp_path / "a.gif") == min(route.steps, 120) if name != "pads" else 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.png", "a.svg"], "nothing is left over"


def test_the_same_figure_gives_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        save_svg(page([block(*ROUTES["segments"])]), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_film_ends_in_the_whole_picture_on_white(tmp_path):
    save_gif([block(*ROUTES["plain"])], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        first = np.asarray(image.convert("RGB"))
        image.seek(3)
        last = np.asarray(image.convert("RGB"))
    assert (first[0, 0] == 255).all() and (last[0, 0] == 255).all()
    buffer = io.BytesIO()
    page([block(*ROUTES["plain"])]).savefig(buffer, dpi=100)
    still = np.asarray(Image.open(buffer).convert("RGB"))
    assert np.abs(still.astype(int) - last).mean() < 2 < np.abs(still.astype(int) - first).mean() + 1.9


def test_a_panel_is_as_wide_as_its_cells():
    """Cells are square, on a picture and on a clip; a large grid has no lattice."""
    for route, grid in ROUTES.values():
        figure = page([block(route, grid)])
        figure.canvas.draw()
        axes = figure.axes[0]
        (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (1, 1)])
        assert abs(x1 - x0) == pytest.approx(abs(y1 - y0))
    small, large = (page([block(Route(range(n * n)), Grid(n, n))]).axes[0].collections[0] for n in (8, 64))
    assert (len(small.get_segments()), len(large.get_segments())) == (18, 4)


def test_no_words_or_panels_overlap():
    """Captions, headings and panels of a crowded page lie apart, and on the page."""
    blocks = [
        Block((Panel(g, r),), "a rather long caption, paths 8, layer 3 " * 2, "name-of-a-scan")
        for r, g in ROUTES.values()
    ]
    figure = page(blocks, size=1.2)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts] + [
        axes.get_window_extent() for axes in figure.axes
    ]
    width, height = figure.bbox.size
    for i, one in enumerate(boxes):
        assert one.x0 >= 0 and one.x1 <= width and one.y0 >= 0 and one.y1 <= height
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_too_many_panels_are_refused():
    with pytest.raises(UsageError, match="too many panels for a page; expected at most 200; got 201"):
        page([block(RASTER, SQUARE)] * 201)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReady, match=r"can't be written") as caught:
        save_png(page([block(RASTER, SQUARE)]), tmp_path / "file" / "a.png")
    assert str(tmp_path / "file" / "a.png") in str(caught.value)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(NotReady):
        save_png(page([block(RASTER, SQUARE)]), tmp_path / "b.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "file"]


# Commands


def test_show_writes_what_is_asked_for_and_no_more(tmp_path):
    names = {kind: str(tmp_path / f"new/{kind}.{kind}") for kind in ("png", "svg", "gif")}
    words = [word for kind, name in names.items() for word in (f"--{kind}", name)]
    out = call("show", "zigzag", "--grid", "3x4", "--depth", "3", "--set", "paths=2", "--layer", "1", *words)
    assert "layer 1\n" in out and "layer 0" not in out
    assert "o↓ → ↓" in out
    assert frames(tmp_path / "new/gif.gif") == 12
    assert "zigzag, paths 2, layer 1" in words_of(tmp_path / "new/svg.svg")
    call("show", "zigzag", "--grid", "3x4", "--png", str(tmp_path / "alone.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.png", "new"]


def test_show_tells_layers_and_figures():
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


def test_compare_tabulates_and_draws(tmp_path):
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


def test_options_are_written_behind_a_colon():
    found = show_scan.find_written("zigzag:paths=2", "3x3", depth=1, seed=0)
    assert (found.name, found.label, found.given) == ("zigzag", "zigzag:paths=2", {"paths": 2})
    assert "zigzag:paths" in call("compare", "zigzag:paths", code=2)
    assert "no option 'path'; " in call("compare", "zigzag:path=2", code=2).replace("zigzag' has ", "")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["show", "raster", "--png", "x.gif"], 2, "--png x.gif: the file has another ending"),
        (["compare", "raster", "--svg", "x"], 2, "expected a name that ends in .svg; got 'x'"),
        (["show", "raster", "--gif", "/proc/x.gif"], 3, "/proc/x.gif: the picture can't be written"),
        (["gallery"], 2, "nothing to write; expected --png FILE or --svg FILE"),
        (["gallery", "--png", "a.png", "--depth", "0"], 2, "--depth"),
        (["compare", "raste"], 2, "did you mean 'raster'?"),
        (["compare", "zigzag", "--grid", "2x3x3"], 3, "order of one picture"),
    ],
)
def test_errors_say_where(words, code, told):
    assert told in call(*words, code=code)


def plain(grid):
    """Raster."""
    return np.arange(grid.tokens)


def only_nines(grid):
    """Refuses all but 9 x 9."""
    if str(grid) != "9x9":
        raise NotReady("nine by nine or nothing")
    return np.arange(81)


def never(grid):
    """Refuses everything."""
    raise NotReady("no grid will do")


def needy(grid, *, start: int):
    """Has an option without a default."""
    return np.roll(np.arange(grid.tokens), start)


def many(grid, layer):
    """Another path a layer."""
    return np.roll(np.arange(grid.tokens), layer)


def broken(grid):
    """No order at all."""
    return np.zeros(grid.tokens, dtype=int)


def small_catalogue(*functions) -> Catalogue:
    made = Catalogue()
    for function in functions:
        made.scans.add(registry.scan_spec(function.__name__.replace("_", "-"), function, owner="test"))
    facts = registry.LearnedScan(cost=dict)
    made.scans.add(registry.target_spec("scan", "taught", "module:Order", options=Taught, facts=facts, owner="test"))
    return made


@dataclass(frozen=True)
class Taught:
    """Learned."""


def test_a_gallery_drops_no_scan(tmp_path, monkeypatch):
    made = small_catalogue(plain, only_nines, never, needy, many)
    monkeypatch.setattr(show_scan, "catalogue", lambda: made)
    call("gallery", "--svg", str(tmp_path / "a.svg"), "--grid", "4x4")
    text = words_of(tmp_path / "a.svg")
    told = ["many", "needy", "never", "only-nines", "plain", "taught", "6 scans on 4x4", "on 9x9", "4 of 8 paths"]
    for words in [*told, "no grid will do", "needs the option", "learned:"]:
        assert words in text
    places = [text.index(f" {name} ") for name in told[:6]]
    assert places == sorted(places), "by name"


def test_a_gallery_of_a_broken_scan_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(show_scan, "catalogue", lambda: small_catalogue(broken))
    with pytest.raises(BrokenScan, match="'broken' of test, layer 0"):
        call("gallery", "--png", str(tmp_path / "a.png"))
    assert list(tmp_path.iterdir()) == []


def test_learned_scans_are_told_and_compared(monkeypatch, tmp_path):
    monkeypatch.setattr(show_scan, "catalogue", lambda: small_catalogue(plain))
    assert "the order is learned" in call("show", "taught", "--png", str(tmp_path / "a.png"))
    out = call("compare", "plain", "taught", "--grid", "4x4", "--png", str(tmp_path / "b.png"))
    assert "taught (learned)" in out
    assert call("compare", "taught", "--grid", "4x4", "--json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_gallery_of_all_scans(tmp_path):
    call("gallery", "--png", str(tmp_path / "a.png"), "--svg", str(tmp_path / "a.svg"), "--grid", "8x8", "--depth", "4")
    text = (tmp_path / "a.svg").read_text()
    for spec in catalogue().scans:
        assert f"<!-- {spec.name} -->" in text


def test_matplotlib_comes_only_with_a_picture():
    code = (
        "import sys, zigma_bench.cli.app, zigma_bench.cli.show_scan, zigma_bench.scans.pictures\n"
        "assert not {'matplotlib', 'torch', 'pandas', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pictures.FRAMES == 120
