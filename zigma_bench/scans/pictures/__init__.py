"""A path drawn for a page: a line over the cells of its grid, coloured by time, as PNG, SVG or a GIF that moves.

Steps to a neighbour are strong lines and jumps thin dashed ones; a reset and a pad leave a gap. Lengths are in inches,
measured from the top left of a page, unless they say cells or points. Matplotlib is imported where it draws.
"""

from zigma_bench.scans.pictures.distances import comparison
from zigma_bench.scans.pictures.files import save_png, save_svg
from zigma_bench.scans.pictures.film import save_gif
from zigma_bench.scans.pictures.layout import Block
from zigma_bench.scans.pictures.pages import page
from zigma_bench.scans.pictures.panels import Panel
from zigma_bench.scans.pictures.style import FRAMES
from zigma_bench.scans.pictures.tracks import Track, runs, track

__all__ = [
    "FRAMES",
    "Block",
    "Panel",
    "Track",
    "comparison",
    "page",
    "runs",
    "save_gif",
    "save_png",
    "save_svg",
    "track",
]
