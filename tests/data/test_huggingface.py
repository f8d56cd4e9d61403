"""Images through `datasets`: parquet, folders, splits, and refused input."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zigma_bench.data.images import Subset, labels_of, pixels_digest
from zigma_bench.data.latents import encoded
from zigma_bench.data.sources import hub
from zigma_bench.data.sources.huggingface import load
from zigma_bench.data.sources.huggingface_files import describe
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.plugins.registry import Condition

Pictures = Callable[..., Path]


def folder_options(folder: Path, **rest: Any) -> HuggingFaceOptions:
    return HuggingFaceOptions(
        **{"path": "imagefolder", "data_dir": str(folder), "resolution": 16, "validation": 2, **rest}
    )


def write_parquet(file: Path, cells: list[dict[str, Any] | None], column: str = "image") -> Path:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({column: pa.array(cells, kind), "label": list(range(len(cells)))}), file)
    return file


def png(seed: int, size: int = 8) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def some_parquet(file: Path, count: int = 5, seed: int = 0) -> Path:
    return write_parquet(file, [{"bytes": png(seed + index), "path": None} for index in range(count)])


def test_parquet_gives_the_pixels_that_pillow_decodes(cifar: Path) -> None:
    options = HuggingFaceOptions(
        "parquet",
        32,
        data_files=str(cifar / "train-*.parquet"),
        validation_files=str(cifar / "test-*.parquet"),
        split="train[:1200]",
    )
    splits = load(options)
    assert (len(splits.train), len(splits.validation)) == (1200, 10_000)
    for images, name in ((splits.train, "train"), (splits.validation, "test")):
        table = next(pq.ParquetFile(next(cifar.glob(f"{name}-*"))).iter_batches(8, columns=["image"]))
        opened = [Image.open(io.BytesIO(cell["bytes"].as_py())).convert("RGB") for cell in table.column("image")]
        expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image in opened])
        np.testing.assert_array_equal(images.take(range(8)), expected)


def test_both_splits_of_a_folder(pictures: Pictures, tmp_path: Path) -> None:
    pictures("set/train", count=4, seed=1)
    pictures("set/test", count=3, seed=2)
    options = folder_options(tmp_path / "set", validation=None, validation_split="test")
    for kind in (options, HuggingFaceOptions(str(tmp_path / "set"), 16, validation_split="test")):
        splits = load(kind)
        assert (len(splits.train), len(splits.validation)) == (4, 3)
        first = np.asarray(Image.open(tmp_path / "set/test/000.png")).transpose(2, 0, 1)
        np.testing.assert_array_equal(splits.validation.take([0])[0], first)


def test_held_out_images_are_apart_and_the_same_each_time(pictures: Pictures) -> None:
    folder = pictures(count=9)
    first, second = load(folder_options(folder, validation=4)), load(folder_options(folder, validation=4))
    assert isinstance(first.train, Subset) and isinstance(first.validation, Subset)
    assert sorted([*first.train.indices, *first.validation.indices]) == list(range(9))
    assert pixels_digest(first.validation) == pixels_digest(second.validation) and pixels_digest(
        first.train
    ) == pixels_digest(second.train)


def test_what_does_not_fit_in_memory_is_decoded_each_time(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures()
    kept = load(folder_options(folder)).train.take([3, 0, 3])
    monkeypatch.setattr(encoded, "MEMORY_BYTES", 100)
    monkeypatch.setattr(encoded, "SMALL_BYTES", 0)  # and by threads
    images = load(folder_options(folder)).train
    np.testing.assert_array_equal(images.take([3, 0, 3]), kept)
    assert images.take([]).shape == (0, 3, 16, 16)
    for file in folder.iterdir():
        file.write_bytes(b"gone")
    with pytest.raises(BadImage):
        images.take([0])


@pytest.mark.parametrize("damage", ["truncated", "text", "flipped", "empty"])
def test_a_broken_image_is_named(pictures: Pictures, damage: str) -> None:
    folder = pictures()
    file = folder / "002.png"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    broken = {"truncated": file.read_bytes()[:-200], "text": b"no picture\n", "flipped": bytes(whole), "empty": b""}
    file.write_bytes(broken[damage])
    splits = load(folder_options(folder))
    with pytest.raises(BadImage, match=r"002\.png.*row 2, column 'image'.*replace or remove"):
        splits.train.take([0])


def test_rows_without_bytes_or_with_a_foreign_path_are_refused(pictures: Pictures, tmp_path: Path) -> None:
    outside = pictures() / "000.png"
    cells = {"has no image": None, "outside the data set": {"bytes": None, "path": str(outside)}}
    for reason, cell in cells.items():
        file = write_parquet(tmp_path / "rows.parquet", [{"bytes": png(0), "path": None}, cell, cell])
        splits = load(HuggingFaceOptions("parquet", 8, data_files=str(file), validation=1))
        with pytest.raises(BadImage, match=rf"rows\.parquet.*{reason}"):
            splits.train.take([0])


def test_a_missing_column_lists_the_columns(tmp_path: Path) -> None:
    file = some_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"no column 'picture'.*image, label"):
        load(HuggingFaceOptions("parquet", 8, data_files=str(file), validation=1, image="picture"))
    with pytest.raises(UsageError, match="contains no images"):
        load(HuggingFaceOptions("parquet", 8, data_files=str(file), validation=1, image="label"))


def test_one_file_for_both_is_refused_even_through_a_link(tmp_path: Path) -> None:
    file = some_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").symlink_to(file)
    for other in (file, tmp_path / "b.parquet"):
        options = HuggingFaceOptions("parquet", 8, data_files=str(file), validation_files=[str(other)])
        for function in (describe, load):
            with pytest.raises(UsageError, match="is a training and a validation file"):
                function(options)
    with pytest.raises(UsageError, match="twice"):
        describe(HuggingFaceOptions("parquet", 8, data_files=f"{file}, {tmp_path}/*.parquet", validation=1))


@pytest.mark.parametrize(
    ("split", "validation"),
    [("train", "train"), ("train", "train[:1]"), ("train[:2]", "train"), ("test+train", "test")],
)
def test_one_split_for_both_is_refused_by_the_plan(tmp_path: Path, split: str, validation: str) -> None:
    file = some_parquet(tmp_path / "a.parquet")
    options = HuggingFaceOptions("parquet", 8, data_files=str(file), split=split, validation_split=validation)
    with pytest.raises(UsageError, match="same split"):
        describe(options)


def test_parts_of_a_split_must_not_overlap(tmp_path: Path) -> None:
    file = some_parquet(tmp_path / "a.parquet", count=10)
    plain: dict[str, Any] = {"path": "parquet", "resolution": 8, "data_files": str(file), "split": "train[:80%]"}
    splits = load(HuggingFaceOptions(**plain, validation_split="train[80%:]"))
    assert (len(splits.train), len(splits.validation)) == (8, 2)
    with pytest.raises(UsageError, match="share 1 rows"):
        load(HuggingFaceOptions(**plain, validation_split="train[70%:]"))


def test_the_validation_images_come_from_exactly_one_place(tmp_path: Path) -> None:
    file = str(some_parquet(tmp_path / "a.parquet"))
    for rest in ({}, {"validation": 1, "validation_split": "test"}, {"validation": 1, "validation_files": file}):
        with pytest.raises(UsageError, match="exactly one of"):
            describe(HuggingFaceOptions("parquet", 8, data_files=file, **rest))  # type: ignore[arg-type]


def test_fewer_images_than_asked_and_unknown_splits_are_refused(pictures: Pictures) -> None:
    folder = pictures(count=6)
    with pytest.raises(UsageError, match="expected 1 to 5; got 6"):
        load(folder_options(folder, validation=6))
    with pytest.raises(UsageError, match=r"no split 'dev'.*train"):
        load(folder_options(folder, split="dev"))


@pytest.mark.parametrize(
    ("path", "rest", "reason"),
    [
        ("parkett", {"data_files": "x"}, "did you mean 'parquet'"),
        ("parquet", {}, "data_files or data_dir"),
        ("parquet", {"data_files": "https://example.org/a.parquet"}, "local path"),
        ("owner/name", {"revision": "main"}, "40 hex digits"),
        ("parquet", {"data_files": "x", "split": "train[0"}, "invalid split"),
    ],
)
def test_options_that_can_never_work(path: str, rest: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        describe(HuggingFaceOptions(path, 8, validation=1, **rest))


def test_missing_files_are_named_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for path, rest in (
        ("parquet", {"data_files": "sub/a.parquet"}),
        ("imagefolder", {"data_dir": "empty"}),
        ("./absent", {}),
        ("data/absent", {}),
    ):
        options = HuggingFaceOptions(path, 8, validation=1, **rest)  # type: ignore[arg-type]
        (missing,) = describe(options).missing
        place = rest.get("data_files") or rest.get("data_dir") or path.removeprefix("./")
        assert str(tmp_path / place) in missing.do + missing.what
        with pytest.raises(NotReady, match="missing"):
            load(options)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_text("not parquet")
    with pytest.raises(NotReady, match=r"a\.parquet: the parquet file can't be opened"):
        load(HuggingFaceOptions("parquet", 8, data_files=str(file), validation=1))


def test_of_many_parquet_files_the_broken_one_is_named(tmp_path: Path) -> None:
    for name in "abc":
        some_parquet(tmp_path / f"{name}.parquet", seed=ord(name))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-9])
    with pytest.raises(NotReady, match=r"/b\.parquet: the parquet file can't be opened .*; get the file again"):
        load(HuggingFaceOptions("parquet", 8, data_files=str(tmp_path / "*.parquet"), validation=1))


def test_a_tar_file_that_lost_its_end_is_refused_although_all_it_has_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
        end = tar.getmembers()[-1].offset
    given: dict[str, Any] = {"path": "webdataset", "resolution": 8, "data_files": str(file), "image": "png"}
    options = (
        HuggingFaceOptions(**given, validation=1),
        HuggingFaceOptions(**given, validation=1, streaming=True, count=2),
    )
    for each in options:
        assert len(load(each).train) in (2, 3)
    file.write_bytes(file.read_bytes()[:end])
    for each in options:
        with pytest.raises(NotReady, match=r"a\.tar: the tar file is truncated"):
            load(each)


def test_all_files_of_a_folder_are_read_in_the_order_of_their_names(pictures: Pictures) -> None:
    folder = pictures("a/b", count=5)
    shutil.copytree(folder, folder / "c")
    first = pixels_digest(load(folder_options(folder, validation=3)).train)
    (folder / "c" / "notes.txt").write_text("no image")
    for name in ("b [1]", "b*", "train", "b ä, c", "b{1..2}", "b#c%20", "b?c"):
        folder = folder.rename(folder.parent / name)
        train = load(folder_options(folder, validation=3)).train
        assert (len(train), pixels_digest(train)) == (7, first), name
    with pytest.raises(UsageError, match=r"b::c.*'::'.*rename"):
        load(folder_options(folder.rename(folder.parent / "b::c"), validation=3))


def test_a_hub_data_set_is_read_from_its_whole_copy_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    options = HuggingFaceOptions("owner/name", 8, validation=1, revision=commit)
    before = describe(options)
    assert "unset HF_HUB_OFFLINE" in before.missing[0].do
    snapshot = hub._snapshot("owner/name", commit)
    snapshot.mkdir(parents=True)
    file = some_parquet(snapshot / "train.parquet")
    assert describe(options).missing  # a copy that may be unfinished
    hub._write_list("owner/name", commit)
    assert not describe(options).missing and describe(options).fingerprint == before.fingerprint
    assert len(load(options).train) == 4
    file.write_bytes(file.read_bytes()[:-1])
    assert describe(options).missing
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_DATASETS_OFFLINE")
    assert not describe(options).missing  # the run downloads it


def test_fingerprint_follows_content_and_options_but_not_the_place(pictures: Pictures, tmp_path: Path) -> None:
    folder = pictures()
    options = folder_options(folder)
    first = describe(options).fingerprint
    moved = shutil.copytree(folder, tmp_path / "elsewhere/copy")
    assert describe(folder_options(moved)).fingerprint == first
    others: list[dict[str, Any]] = [
        {"validation": 3},
        {"channels": 1},
        {"resolution": 8},
        {"resize": "none"},
        {"split": "train[:5]"},
    ]
    prints = {describe(folder_options(folder, **other)).fingerprint for other in others}
    (moved / "000.png").write_bytes(b"another size")
    prints.add(describe(folder_options(moved)).fingerprint)
    assert len(prints | {first}) == len(others) + 2


def test_describe_imports_nothing_heavy(pictures: Pictures) -> None:
    folder = pictures()
    code = (
        "import sys, json; from zigma_bench.data import digits, faceshq, source; "
        "from zigma_bench.data.sources.options import *; digits.describe(DigitsOptions()); "
        f"faceshq.describe(FacesHQOptions()); "
        f"source.describe(HuggingFaceOptions('imagefolder', 8, data_dir={str(folder)!r}, validation=1)); "
        " print(json.dumps(sorted(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    heavy = {"torch", "datasets", "sklearn", "PIL", "pandas", "pyarrow", "huggingface_hub"}
    assert not heavy & set(json.loads(result.stdout))


def test_the_classes_of_a_column(tmp_path: Path, pictures: Pictures) -> None:
    folder = pictures(tmp_path / "some", 6)
    cells = [{"bytes": file.read_bytes(), "path": None} for file in sorted(folder.rglob("*.png"))]
    file = write_parquet(tmp_path / "a.parquet", cells)
    given = {"path": "parquet", "data_files": str(file), "resolution": 16, "validation": 2}
    options = HuggingFaceOptions(**given, label="label", classes=6)
    splits = load(options)
    rows = [*labels_of(splits.train, range(4)), *labels_of(splits.validation, range(2))]
    assert sorted(rows) == [0, 1, 2, 3, 4, 5]
    whole = decoded(cells)
    for images in (splits.train, splits.validation):
        for index in range(len(images)):
            assert np.array_equal(images.take([index])[0], whole[labels_of(images, [index])[0]])
    assert describe(options).conditions == (Condition("class", 6),)
    plain = HuggingFaceOptions(**given)
    assert describe(plain).conditions == () and describe(plain).fingerprint != describe(options).fingerprint
    with pytest.raises(UsageError, match=r"have no labels.*name their column with label"):
        labels_of(load(plain).train, [0])
    with pytest.raises(UsageError, match=r"class label of row 4 is out of range.*expected 0 to 3; got 4"):
        load(HuggingFaceOptions(**given, label="label", classes=4))
    with pytest.raises(UsageError, match=r"no column 'kind'.*set label to one"):
        load(HuggingFaceOptions(**given, label="kind", classes=4))
    with pytest.raises(UsageError, match="need each other"):
        describe(HuggingFaceOptions(**given, label="label"))


def decoded(cells: list[dict[str, Any]]) -> list[np.ndarray]:
    """Each image as the loader returns it."""
    return [
        encoded.decode_image(cell["bytes"], channels=3, resolution=16, resize="short-side-center-crop", where="test")
        for cell in cells
    ]
