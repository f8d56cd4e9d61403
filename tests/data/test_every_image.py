"""No image is dropped silently: every file is either read or named in an error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zigma_bench.data.checks.dataset import check_dataset_files
from zigma_bench.data.images import Counts, labels_of
from zigma_bench.data.reading.counts import count_huggingface, missing_classes
from zigma_bench.data.sources.huggingface import load
from zigma_bench.data.sources.huggingface_files import describe
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.discovery import catalogue

Pictures = Callable[..., Path]


def options(folder: Path, **rest: Any) -> HuggingFaceOptions:
    given = {"path": "imagefolder", "data_dir": str(folder), "resolution": 16, "validation": 2, **rest}
    return HuggingFaceOptions(**given)


@pytest.fixture
def classes(pictures: Pictures, tmp_path: Path) -> Path:
    """Two class folders, one of them called train."""
    pictures("set/bus", count=4, seed=1)
    pictures("set/train", count=5, seed=2)
    return tmp_path / "set"


def test_a_class_may_be_called_train(classes: Path) -> None:
    given = options(classes, label="label", classes=2)
    splits = load(given)
    labels = [*labels_of(splits.train, range(7)), *labels_of(splits.validation, range(2))]
    assert np.bincount(labels).tolist() == [4, 5]
    assert count_huggingface(given) == Counts(7, 2, 2)


def test_two_splits_of_which_one_is_asked_for_are_refused(classes: Path) -> None:
    (classes / "bus").rename(classes / "test")
    with pytest.raises(UsageError, match=r"splits test and train.*train/000\.png.*validation_split"):
        load(options(classes))
    both = options(classes, validation=None, validation_split="test")
    assert count_huggingface(both) == Counts(5, 4) and len(load(both).train) == 5


def test_a_class_folder_may_be_a_link(classes: Path, tmp_path: Path) -> None:
    shutil.move(classes / "bus", tmp_path / "elsewhere")
    (classes / "bus").symlink_to(tmp_path / "elsewhere")
    assert len(load(options(classes, label="label", classes=2)).train) == 7
    (classes / "again").symlink_to(classes)
    with pytest.raises(NotReady, match=r"again: this link leads to a folder that is already read"):
        describe(options(classes))


@pytest.mark.parametrize("kind", ["pipe", "dangling", "loop", "bytes"])
def test_what_is_no_file_is_named(classes: Path, kind: str) -> None:
    place = classes / "bus" / "x.png"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "bytes":
        Path(os.fsdecode(os.fsencode(classes / "bus") + b"/\xff.png")).write_bytes(b"")
    else:
        place.symlink_to("x.png" if kind == "loop" else "gone.png")
    with pytest.raises(NotReady, match=r"\\xff\.png.*UTF-8" if kind == "bytes" else r"x\.png"):
        describe(options(classes))


@pytest.mark.parametrize("name", ["a.heic", "a.jp2", "a.zip", "a.parquet", "noname"])
def test_an_image_that_is_not_read_is_named(classes: Path, name: str) -> None:
    (classes / "README.txt").write_text("a note")
    describe(options(classes))
    (classes / "bus" / name).write_bytes((classes / "bus/000.png").read_bytes())
    with pytest.raises(NotReady, match=rf"{name}: .*would skip"):
        describe(options(classes))


@pytest.mark.parametrize("name", ["a.jfif", "a.JPG", "a.jpe", "a.pbm"])
def test_less_common_suffixes_are_read(classes: Path, name: str) -> None:
    shutil.copy(classes / "bus/000.png", classes / "bus" / name)
    assert len(load(options(classes)).train) == 8


def test_a_class_without_an_image_is_named(classes: Path) -> None:
    with pytest.raises(NotReady, match=r"2 classes only.*expected 3 class folders"):
        describe(options(classes, label="label", classes=3))
    (classes / "empty").mkdir()
    with pytest.raises(NotReady, match="set/empty: the class folder contains no image"):
        describe(options(classes, label="label", classes=2))
    problem = missing_classes(np.array([0, 2]), 4)
    assert "2 of the 4 classes" in str(problem) and "class 1, 3" in str(problem)
    assert missing_classes(np.array([1, 0]), 2) is None


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), "dictionary", "struct"])
def test_every_column_of_bytes_is_read(kind: Any, pictures: Pictures, tmp_path: Path) -> None:
    data = [file.read_bytes() for file in sorted(pictures(count=6).iterdir())]
    column = pa.array(data, pa.binary() if isinstance(kind, str) else kind)
    if kind == "dictionary":
        column = column.dictionary_encode()
    elif kind == "struct":
        column = pa.array([{"bytes": item} for item in data], pa.struct({"bytes": pa.large_binary()}))
    (tmp_path / "v[2]").mkdir()
    pq.write_table(pa.table({"image": column}), tmp_path / "v[2]/a.parquet")
    for place in ({"data_dir": str(tmp_path / "v[2]")}, {"data_files": f"{tmp_path}/v[2]/*.parquet"}):
        given = HuggingFaceOptions("parquet", 16, validation=2, **place)  # type: ignore[arg-type]
        assert load(given).train.take(range(4)).shape == (4, 3, 16, 16)
        assert count_huggingface(given) == Counts(4, 2)


def test_shards_of_any_name_are_checked(pictures: Pictures, tmp_path: Path) -> None:
    data = [file.read_bytes() for file in sorted(pictures(count=6).iterdir())]
    pq.write_table(pa.table({"image": [*data[:5], data[5][:100]]}), tmp_path / "a.pq")
    spec = catalogue().get("dataset", "huggingface")
    given = {"path": "parquet", "data_files": str(tmp_path / "a.pq"), "resolution": 16, "validation": 2}
    found = check_dataset_files(spec, spec.make_options(spec.resolve(given, where="test")))
    assert found.images == 6 and len(found.problems) == 1 and "row 5" in str(found.problems[0])
