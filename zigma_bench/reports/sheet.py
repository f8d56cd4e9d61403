"""A sheet of samples: one labelled block of images for each row of a run, from the same seed and so the same noise.

The images are those of `grid.png`, which every sample stage writes: the first samples, uncurated, small ones enlarged
by an integer factor.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import UsageError
from zigma_bench.records.store import stage_folder, write_atomic
from zigma_bench.records.table_file import TableCell, require_table_file

GRID, COLUMNS = "grid.png", 8  # as the sample stage writes it: 8 images in a row
MOST_LINES = 8  # lines of images of a block
MARGIN, FONT_SIZE, LINE_HEIGHT = 8, 14, 18  # pixels
INK, PAPER = (30, 30, 30), (255, 255, 255)


@dataclass(frozen=True)
class SampleBlock:
    """The images of one row: its label, and a picture (Pillow) or None, then the label says why."""

    label: tuple[str, ...]
    picture: Any


def make_sheet(folder: Path, *, lines: int = 2, seed: int | None = None) -> bytes | None:
    """The sheet of the run in `folder` as a PNG, with `lines` lines of 8 images for each row; None without samples.

    `seed`: the seed of the samples; by default the first seed of the suite.
    """
    if not 1 <= lines <= MOST_LINES:
        raise UsageError("the number of lines is wrong", where="--lines", expected=f"1 to {MOST_LINES}", got=lines)
    blocks = list(_find_blocks(folder, lines, seed))
    if not any(block.picture is not None for block in blocks):
        return None
    buffer = io.BytesIO()
    _draw(blocks).save(buffer, format="PNG")
    return buffer.getvalue()


def write_sheet(folder: Path, path: Path, *, lines: int = 2, seed: int | None = None) -> None:
    """Write the sheet of a run to a file; UsageError if the run has no samples."""
    sheet = make_sheet(folder, lines=lines, seed=seed)
    if sheet is None:
        do = "run the suite; a copy of its records has no images"
        raise UsageError("there are no samples here", where=str(folder), do=do)
    write_atomic(path, sheet)


def _find_blocks(folder: Path, lines: int, seed: int | None) -> Iterator[SampleBlock]:
    """The blocks of all rows, in the order of the table."""
    cells = [cell for cell in require_table_file(folder).cells if "sample" in cell.stages]
    seeds = sorted({cell.seed for cell in cells})
    if seed is not None and seed not in seeds:
        raise UsageError("the run has no samples of this seed", where="--seed", expected=f"one of {seeds}", got=seed)
    chosen = next((cell.seed for cell in cells if cell.role == "cell"), None) if seed is None else seed
    for cell in cells:
        if cell.seed == chosen:
            grid = stage_folder(folder / cell.folder, "sample", cell.stages["sample"]) / GRID
            picture, problem = _first_lines(grid, lines)
            yield SampleBlock((*_label(cell), *problem), picture)


def _label(cell: TableCell) -> tuple[str, ...]:
    """What names a row, line by line."""
    names = {"floor": ("held-out images",), "ceiling": (cell.backbone,), "reconstruction": ("autoencoder",)}
    words = names.get(cell.role, (cell.backbone, cell.scan))
    return tuple(word for word in (*words, cell.data, f"seed {cell.seed}") if word)


def _first_lines(grid: Path, lines: int) -> tuple[Any, tuple[str, ...]]:
    """The first lines of a grid, or None and what is wrong. Clips have lines of frames."""
    from PIL import Image

    try:
        with Image.open(grid) as picture:
            whole = picture.convert("RGB")
    except FileNotFoundError:
        return None, ("no samples here",)
    except OSError:
        return None, (f"{GRID} is damaged",)
    height = whole.width // COLUMNS * lines
    return whole.crop((0, 0, whole.width, min(height, whole.height))), ()


def _draw(blocks: Sequence[SampleBlock]) -> Any:
    """All blocks below one another, with their labels on the left."""
    from PIL import Image, ImageDraw

    font = _font()
    texts = [block.label for block in blocks]
    left = 2 * MARGIN + max(int(font.getlength(line)) for text in texts for line in text)
    pictures = [block.picture for block in blocks]
    heights = [
        max(len(text) * LINE_HEIGHT, 0 if picture is None else picture.height)
        for text, picture in zip(texts, pictures, strict=True)
    ]
    width = left + max(picture.width for picture in pictures if picture is not None) + MARGIN
    sheet = Image.new("RGB", (width, sum(heights) + MARGIN * (len(blocks) + 1)), PAPER)
    draw, top = ImageDraw.Draw(sheet), MARGIN
    for text, picture, height in zip(texts, pictures, heights, strict=True):
        for number, line in enumerate(text):
            draw.text((MARGIN, top + number * LINE_HEIGHT), line, fill=INK, font=font)
        if picture is not None:
            sheet.paste(picture, (left, top))
        top += height + MARGIN
    return sheet


def _font() -> Any:
    """Matplotlib's own font, which has the letters of most languages."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)
