"""Pages of every kind of route: the layout, and the written files."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.pictures import Panel, PictureBlock, flow_page, save_gif, save_png, save_svg
from zigma_bench.scans.route import Route

SQUARE = Grid(2, 2)
RASTER = Route(range(4))
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


def block(route: Route, grid: Grid, caption: str = "a caption") -> PictureBlock:
    return PictureBlock((Panel(grid, route),), caption)


@pytest.mark.parametrize("name", ROUTES)
def test_pictures_of_every_kind_of_route(name, tmp_path, frames):
    route, grid = ROUTES[name]
    figure = flow_page([block(route, grid)], title="A title")
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
        save_svg(flow_page([block(*ROUTES["segments"])]), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_png_has_few_colours_and_loses_none_of_its_marks(tmp_path):
    """White paper, the pale cells that no path visits, and the red of a single pad among all shades."""
    route, grid = Route([*range(250), -1]), Grid(16, 16)
    save_png(flow_page([block(route, grid)]), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.01)
        found = np.asarray(image.convert("RGB")).astype(int)
    assert (found[0, 0] == 255).all()
    for colour in ((243, 243, 243), (192, 57, 43)):
        assert np.abs(found - colour).max(-1).min() < 6, colour


def test_a_film_ends_in_the_whole_picture_on_white(tmp_path):
    save_gif([block(*ROUTES["plain"])], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        first = np.asarray(image.convert("RGB"))
        image.seek(3)
        last = np.asarray(image.convert("RGB"))
    assert (first[0, 0] == 255).all() and (last[0, 0] == 255).all()
    buffer = io.BytesIO()
    flow_page([block(*ROUTES["plain"])]).savefig(buffer, dpi=100)
    still = np.asarray(Image.open(buffer).convert("RGB"))
    assert np.abs(still.astype(int) - last).mean() < 2 < np.abs(still.astype(int) - first).mean() + 1.9


def test_a_panel_is_as_wide_as_its_cells():
    """Cells are square, on a picture and on a clip; a large grid has no lattice."""
    for route, grid in ROUTES.values():
        figure = flow_page([block(route, grid)])
        figure.canvas.draw()
        axes = figure.axes[0]
        (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (1, 1)])
        assert abs(x1 - x0) == pytest.approx(abs(y1 - y0))
    small, large = (flow_page([block(Route(range(n * n)), Grid(n, n))]).axes[0].collections[0] for n in (8, 64))
    assert (len(small.get_segments()), len(large.get_segments())) == (18, 4)


def test_no_words_or_panels_overlap():
    """Captions, headings and panels of a crowded page lie apart, and on the page."""
    blocks = [
        PictureBlock((Panel(g, r),), "a rather long caption, paths 8, layer 3 " * 2, "name-of-a-scan")
        for r, g in ROUTES.values()
    ]
    figure = flow_page(blocks, size=1.2)
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
        flow_page([block(RASTER, SQUARE)] * 201)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReady, match=r"can't be written") as caught:
        save_png(flow_page([block(RASTER, SQUARE)]), tmp_path / "file" / "a.png")
    assert str(tmp_path / "file" / "a.png") in str(caught.value)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(NotReady):
        save_png(flow_page([block(RASTER, SQUARE)]), tmp_path / "b.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "file"]
