"""Captions of sources: one or more for each image, and an error that names a row without a caption."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zigma_bench.data.images import Splits, captions_of, labels_of
from zigma_bench.data.sources import digits
from zigma_bench.data.sources.huggingface import load
from zigma_bench.data.sources.huggingface_files import describe
from zigma_bench.data.sources.options import DigitsOptions, HuggingFaceOptions
from zigma_bench.data.transforms.apply import apply_transforms
from zigma_bench.errors import NotReady, UsageError

from .conftest import SHARED


def flat(level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def table(tmp_path: Path, texts: list[Any]) -> HuggingFaceOptions:
    """A parquet file whose image i has the level 10 i."""
    cells = [{"bytes": flat(10 * row), "path": None} for row in range(len(texts))]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(cells, kind), "text": texts}), tmp_path / "a.parquet")
    return HuggingFaceOptions(
        "parquet", 8, data_files=str(tmp_path / "a.parquet"), validation=2, image="image", caption="text"
    )


@pytest.mark.parametrize("several", [False, True])
def test_every_image_has_its_own_captions(several: bool, tmp_path: Path) -> None:
    texts = [f"level {10 * row}" for row in range(6)]
    options = table(tmp_path, [[text, f"also {text}"] for text in texts] if several else texts)
    assert describe(options).captions
    splits = apply_transforms(load(options), [lambda pixels: pixels])
    for images in (splits.train, splits.validation):
        levels = images.take(range(len(images)))[:, 0, 0, 0]
        for level, found in zip(levels, captions_of(images, range(len(images))), strict=True):
            assert found == ((f"level {level}", f"also level {level}") if several else (f"level {level}",))


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["a", "b", None, "d"], "row 2, column 'text': the row has no caption"),
        (["a", " \n", "c", "d"], "row 1, column 'text': the row's caption is empty; got ' \\n'"),
        ([["a"], ["b"], [], ["d"]], "row 2, column 'text': the row has no caption"),
        ([["a"], ["b"], ["c"], ["d", ""]], "row 3, column 'text': caption 1 of the row is empty"),
        ([["a"], ["b", None], ["c"], ["d"]], "row 1, column 'text': caption 1 of the row is empty"),
        ([1, 2, 3, 4], "the column 'text' contains no captions; expected a text or a list of texts"),
    ],
)
def test_a_row_without_a_caption_is_named(texts: list[Any], told: str, tmp_path: Path) -> None:
    with pytest.raises((NotReady, UsageError)) as caught:
        load(table(tmp_path, texts))
    assert told in str(caught.value)
    assert isinstance(caught.value, UsageError) == (texts == [1, 2, 3, 4])  # a wrong option, or missing data


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(UsageError, match=r"no column 'caption'.*one of image, text; set caption to one"):
        load(replace(table(tmp_path, ["a"] * 4), caption="caption"))


@pytest.mark.parametrize("kind", ["imagefolder", "folder"])
def test_the_metadata_of_a_folder_of_images(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for level in range(0, 60, 10):
        (folder / f"{level:02d}.png").write_bytes(flat(level))
        rows.append({"file_name": f"{level:02d}.png", "said": f"level {level}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, reversed(rows))))
    place = {"path": "imagefolder", "data_dir": str(folder)} if kind == "imagefolder" else {"path": str(folder)}
    splits = load(HuggingFaceOptions(**place, resolution=8, validation=2, caption="said"))
    levels = splits.train.take(range(4))[:, 0, 0, 0]
    assert captions_of(splits.train, range(4)) == [(f"level {level}",) for level in levels]


@pytest.mark.parametrize(("how_many", "count"), [("one", 1), ("several", 3)])
def test_the_digits_are_named(how_many: Any, count: int) -> None:
    splits = digits.load(DigitsOptions(caption=how_many))
    for images in (splits.train, splits.validation):
        labels = labels_of(images, range(100))
        found = captions_of(images, range(100))
        assert all(texts[0] == f"the digit {digits.NAMES[k]}" for k, texts in zip(labels, found, strict=True))
        assert all(len(set(texts)) == count for texts in found)
    assert len(set(found)) == 10
    plain, named = digits.describe(DigitsOptions()), digits.describe(DigitsOptions(caption=how_many))
    assert named.captions and not plain.captions and plain.fingerprint != named.fingerprint


def test_images_without_captions_say_so() -> None:
    splits: Splits = digits.load(DigitsOptions())
    with pytest.raises(UsageError, match="have no captions"):
        captions_of(splits.train, [0])


def test_the_emoji_have_their_names() -> None:
    file = SHARED / "fluent-emoji-3d" / "train-00000-of-00001.parquet"
    if not file.is_file():
        pytest.skip(f"{file} is absent: it holds captioned emoji in parquet")
    part = {"split": "train[1731:1791]", "validation": 2}
    splits = load(HuggingFaceOptions("parquet", 16, data_files=str(file), caption="text", **part))
    names = [text for (text,) in captions_of(splits.train, range(58))]
    assert "smiling face with halo" in names and len(set(names)) == 58
    red, _, blue = splits.train.take([names.index("neutral face")])[0][:, 8, 8]
    assert red > 200 > 150 > blue  # yellow
