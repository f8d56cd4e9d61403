"""Notes on a plan: what a reader of its table must know, although every cell can run."""

from __future__ import annotations

from collections.abc import Sequence

from zigma_bench.plan.cells import Cell
from zigma_bench.plugins.discovery import find_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.turns import count_paths_in_turn


def describe_uneven_paths(cells: Sequence[Cell]) -> tuple[str, ...]:
    """A sentence for each row whose scan has paths in turn that aren't all used by equally many layers.

    Toys of smoke runs have no notes, because they have another depth.
    """
    rows = {(cell.row, cell.shape): cell for cell in cells if cell.role == "cell" and not cell.smoke}
    return tuple(dict.fromkeys(note for cell in rows.values() if (note := _uneven_paths(cell)) is not None))


def _uneven_paths(cell: Cell) -> str | None:
    """The sentence for one cell; None if its depth is a multiple of the number of paths."""
    if cell.scan is None or cell.backbone is None:
        return None
    scan = find_spec("scan", cell.scan.name)
    if isinstance(scan.target, str):  # a learned order
        return None
    options = find_spec("backbone", cell.backbone.name).make_options(cell.backbone.options)
    grid = Grid.of_image(cell.height, cell.width, options.patch, cell.frames)
    paths, depth = count_paths_in_turn(scan.target, grid, cell.scan.options), options.depth
    if paths is None or depth % paths == 0:
        return None
    return f"{cell.row}: {describe_use(depth, paths)}, because {depth} layers are no multiple of {paths} paths"


def describe_use(depth: int, paths: int) -> str:
    """How many layers follow each of the paths in turn, in words."""
    each, more = divmod(depth, paths)
    if each == 0:
        return f"only {more} of its {paths} paths are used"
    layers = "1 layer" if each == 1 else f"{each} layers"
    return f"{more} of its {paths} paths are used by {each + 1} layers each, and {paths - more} by {layers}"
