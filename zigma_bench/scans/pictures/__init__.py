"""Draw scan paths as lines over the cells of the grid, coloured by time, as PNG, SVG or animated GIF.

Steps to a neighbour are thick lines and jumps thin dashed ones. A new segment or a pad leaves a gap. Lengths are in
inches from the top left of a page, unless named as cells or points. Matplotlib is imported only when drawing.
"""

from zigma_bench.scans.pictures.distances import comparison_figure
from zigma_bench.scans.pictures.files import save_png, save_svg
from zigma_bench.scans.pictures.film import save_gif
from zigma_bench.scans.pictures.layout import PictureBlock
from zigma_bench.scans.pictures.pages import flow_page
from zigma_bench.scans.pictures.panels import Panel
from zigma_bench.scans.pictures.style import FRAMES
from zigma_bench.scans.pictures.tracks import Track, make_track, track_runs

__all__ = [
    "FRAMES",
    "Panel",
    "PictureBlock",
    "Track",
    "comparison_figure",
    "flow_page",
    "make_track",
    "save_gif",
    "save_png",
    "save_svg",
    "track_runs",
]
