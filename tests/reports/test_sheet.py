"""The sheet of samples: a labelled block for each row, from one seed; and the files that a run leaves."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from zigma_bench.errors import UsageError
from zigma_bench.records.pack import pack_run
from zigma_bench.records.store import stage_folder
from zigma_bench.records.table_file import read_table_file
from zigma_bench.reports.run_files import write_run_files
from zigma_bench.reports.sheet import make_sheet, write_sheet
from zigma_bench.reports.table import find_run_folder, read_tables


@pytest.fixture
def folder(quickstart, tmp_path):
    import shutil

    shutil.copytree(quickstart / "results" / "quickstart", tmp_path / "quickstart")
    return find_run_folder(tmp_path / "quickstart")


def size_of(sheet):
    return Image.open(io.BytesIO(sheet)).size


def test_a_run_leaves_its_table_and_its_sheet(folder):
    assert {"table.md", "sheet.png"} <= {path.name for path in folder.iterdir()}
    text = (folder / "table.md").read_text()
    assert text.startswith("### quickstart") or "| role |" in text
    before = (folder / "sheet.png").read_bytes()
    assert write_run_files(folder, read_tables(folder)) == [folder / "table.md", folder / "sheet.png"]
    assert (folder / "sheet.png").read_bytes() == before
    assert (folder / "table.md").read_text() == text


def test_the_sheet_of_a_packed_run_stays(folder):
    """One new sample stage doesn't make a sheet with a single picture of it."""
    before = (folder / "sheet.png").read_bytes()
    grid = next(folder.glob("zigma*/sample-*/grid.png"))
    data = grid.read_bytes()
    pack_run(folder, remove=True)
    assert write_run_files(folder, read_tables(folder)) == [folder / "table.md"]
    grid.parent.mkdir(parents=True)
    grid.write_bytes(data)
    write_run_files(folder, read_tables(folder))
    assert (folder / "sheet.png").read_bytes() == before


def test_every_row_has_a_block_of_enlarged_digits(folder):
    """8 x 8 digits are enlarged 6 times, with borders: 8 images are 400 pixels wide."""
    rows = [cell for cell in read_table_file(folder).cells if "sample" in cell.stages]
    one, two = size_of(make_sheet(folder, lines=1)), size_of(make_sheet(folder, lines=2))
    assert two[0] == one[0] > 400
    grids = [stage_folder(folder / cell.folder, "sample", cell.stages["sample"]) / "grid.png" for cell in rows]
    heights = [min(size_of(grid.read_bytes())[1], 100) for grid in grids]
    assert two[1] == sum(max(height, 3 * 18) for height in heights) + 8 * (len(rows) + 1)


def test_what_is_missing_or_damaged_is_said(folder):
    grids = sorted(folder.glob("*/sample-*/grid.png"))
    whole = make_sheet(folder)
    grids[0].unlink()
    grids[1].write_bytes(b"no picture")
    assert make_sheet(folder) not in (None, whole)
    for grid in grids[1:]:
        grid.unlink()
    assert make_sheet(folder) is None
    with pytest.raises(UsageError, match="no samples here"):
        write_sheet(folder, folder / "x.png")


@pytest.mark.parametrize(
    ("options", "words"), [({"lines": 0}, "1 to 8"), ({"lines": 9}, "1 to 8"), ({"seed": 7}, r"one of \[0\]")]
)
def test_wrong_options_are_named(options, words, folder):
    with pytest.raises(UsageError, match=words):
        make_sheet(folder, **options)


def test_the_results_of_several_suites_are_not_one_run(folder):
    import shutil

    shutil.copytree(folder.parent, folder.parents[1] / "other")
    with pytest.raises(UsageError, match="several suites") as caught:
        find_run_folder(folder.parents[1])
    assert re.search("expected one of other, quickstart", str(caught.value))
