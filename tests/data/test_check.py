"""A check lists every fault of a data set, and reports no fault of a good data set."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zigma_bench.data.checks.dataset import CheckResult, check_dataset_files
from zigma_bench.data.images import ArrayImages, Splits
from zigma_bench.data.reading.files import missing_numbers, missing_shards, split_list
from zigma_bench.data.sources.huggingface import load
from zigma_bench.data.sources.huggingface_files import describe
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Condition, DataFacts, DatasetFacts, target_spec

KIND = pa.struct({"bytes": pa.binary(), "path": pa.string()})
Pictures = Callable[..., Path]


def checked(name: str = "huggingface", **given: Any) -> CheckResult:
    spec = catalogue().get("dataset", name)
    return check_dataset_files(spec, spec.make_options(spec.resolve(given, where="test")))


def folder(path: Path, **rest: Any) -> dict[str, Any]:
    return {"path": "imagefolder", "data_dir": str(path), "resolution": 16, "validation": 2, **rest}


def only(found: CheckResult) -> str:
    (problem,) = found.problems
    return str(problem)


def png(seed: int, size: int = 16, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def parquet(file: Path, count: int = 12, first: int = 0) -> Path:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([{"bytes": png(first + index), "path": None} for index in range(count)], kind)
    table = pa.table({"image": cells, "label": pa.array([index % 3 for index in range(count)])})
    pq.write_table(table, file, row_group_size=4, compression="none")
    return file


def shard(file: Path, keys: list[str], extra: dict[str, bytes] | None = None) -> Path:
    with tarfile.open(file, "w") as tar:
        for number, key in enumerate(keys):
            for name, data in {f"{key}.png": png(number), f"{key}.cls": b"1", **(extra or {})}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file


def test_whole_sources_have_no_problem(tmp_path: Path, pictures: Pictures) -> None:
    for seen, count in (
        (checked("digits"), 1797),
        (checked(**folder(pictures(count=250))), 250),
        (checked(path="parquet", data_files=str(parquet(tmp_path / "a.parquet")), resolution=16, validation=2), 12),
        (checked(**tar_options(shard(tmp_path / "a.tar", ["a", "b", "c"]))), 3),
    ):
        assert seen == CheckResult(count)


def test_images_smaller_than_asked_for_are_counted(tmp_path: Path, pictures: Pictures) -> None:
    """They are enlarged, which is reported but isn't an error."""
    small = {"resolution": 64}
    for seen, count in (
        (checked(**{**folder(pictures(count=250)), **small}), 250),
        (checked(path="parquet", data_files=str(parquet(tmp_path / "a.parquet")), validation=2, **small), 12),
        (checked(**{**tar_options(shard(tmp_path / "a.tar", ["a", "b", "c"])), **small}), 3),
    ):
        assert seen == CheckResult(count, enlarged=count)


def test_every_broken_file_of_a_folder_is_named(pictures: Pictures) -> None:
    place = pictures(count=9)
    (place / "001.png").write_text("no picture")
    (place / "003.png").write_bytes(b"")
    (place / "004.png").write_bytes((place / "004.png").read_bytes()[:300])
    (place / "006.jpg").write_bytes(png(0, kind="JPEG")[:400])
    found = checked(**folder(place))
    assert found.images == 10
    names = [str(problem.where).rpartition("/")[2] for problem in found.problems]
    assert names == ["001.png", "003.png", "004.png", "006.jpg"]
    assert all(isinstance(problem, BadImage) and problem.do for problem in found.problems)
    assert "not one of PNG" in str(found.problems[0]) and "empty" in str(found.problems[1])


def test_an_image_of_another_size_where_none_is_resized(pictures: Pictures) -> None:
    place = pictures(count=5)
    Image.new("RGB", (17, 16)).save(place / "002.png")
    assert "002.png: the image has another size" in only(checked(**folder(place, resize="none")))


def test_a_parquet_file_that_is_cut_off_hides_no_other(tmp_path: Path) -> None:
    files = [parquet(tmp_path / f"{name}.parquet", first=12 * number) for number, name in enumerate("abc")]
    files[0].write_bytes(files[0].read_bytes()[:-100])
    whole = bytearray(files[1].read_bytes())
    bad = whole.find(b"IDAT", len(whole) // 2)  # in one picture
    whole[bad + 40] ^= 0xFF
    files[1].write_bytes(bytes(whole))
    files[2].write_bytes(b"")
    found = checked(path="parquet", data_files=str(tmp_path / "*.parquet"), resolution=16, validation=2)
    words = [str(problem) for problem in found.problems]
    assert len(words) == 3 and found.images == 12
    assert "a.parquet: the parquet file can't be opened" in words[0] and "get the file again" in words[0]
    assert "b.parquet, row" in words[1] and "can't be decoded" in words[1]
    assert "c.parquet" in words[2]


def test_a_row_group_that_cant_be_read_is_named(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet")
    chunk = pq.ParquetFile(file).metadata.row_group(1).column(0)
    whole = bytearray(file.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    whole[start : start + 20] = bytes(20)
    file.write_bytes(bytes(whole))
    found = checked(path="parquet", data_files=str(file), resolution=16, validation=2)
    assert "row group 1 can't be read after row 4" in only(found) and found.images == 8


def test_columns_and_labels_of_a_table(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "path": "parquet", "data_files": str(parquet(tmp_path / "a.parquet")), "resolution": 16, "validation": 2,
    }  # fmt: skip
    assert "no column 'picture'; expected one of image, label" in only(checked(**given, image="picture"))
    found = checked(**given, label="label", classes=2)
    assert [str(problem.where).rpartition("row ")[2] for problem in found.problems] == [
        f"{row}, column 'label'" for row in (2, 5, 8, 11)
    ]
    assert not checked(**given, label="label", classes=3).problems
    assert "split 'test'" in only(checked(**{**given, "validation": None}, validation_split="test"))


def test_every_row_without_a_caption_is_named(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([{"bytes": png(index), "path": None} for index in range(6)], kind)
    table = pa.table(
        {"image": cells, "text": ["a", None, "b", " ", "c", "d"], "many": [["a"], ["b", ""], [], ["c"], None, ["d"]]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    given: dict[str, Any] = {
        "path": "parquet", "data_files": str(tmp_path / "a.parquet"), "resolution": 16, "validation": 2,
    }  # fmt: skip
    for column, rows in {"text": (1, 3), "many": (1, 2, 4)}.items():
        words = [str(problem) for problem in checked(**given, caption=column).problems]
        assert len(words) == len(rows)
        assert all(f"row {row}, column {column!r}" in text for row, text in zip(rows, words, strict=True))
        assert all("no caption" in text or "empty" in text for text in words)
    assert "no column 'caption'; expected one of image, many, text" in only(checked(**given, caption="caption"))


def test_a_sample_of_a_tar_file_without_its_caption(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.tar", ["a", "b"], {"b.txt": b"a word"})
    assert "sample 'a': the sample has no 'txt'" in str(checked(**tar_options(file, caption="txt")).problems[0])


def tar_options(*files: Path, **rest: Any) -> dict[str, Any]:
    named = [str(file) for file in files]
    return {"path": "webdataset", "data_files": named, "image": "png", "resolution": 16, "validation": 1, **rest}


@pytest.mark.parametrize("cut", ["in a file", "between two files", "no tar"])
def test_a_tar_file_that_is_cut_off(tmp_path: Path, cut: str) -> None:
    file, other = shard(tmp_path / "a.tar", ["a", "b", "c"]), shard(tmp_path / "b.tar", ["d"])
    whole = file.read_bytes()
    with tarfile.open(file) as tar:
        last = tar.getmembers()[-2]
    ends = {"in a file": last.offset_data + 200, "between two files": last.offset, "no tar": 0}
    file.write_bytes(whole[: ends[cut]] or b"no tar file at all")
    (other.parent / "b.tar").write_bytes(other.read_bytes())
    found = checked(**tar_options(file, other))
    assert "a.tar: the tar file is truncated or broken" in only(found)
    assert found.images == {"in a file": 2, "between two files": 2, "no tar": 1}[cut]


def test_samples_of_tar_files(tmp_path: Path) -> None:
    files = [shard(tmp_path / "a.tar", ["a", "b"]), shard(tmp_path / "b.tar", ["c", "a"])]
    words = [str(problem) for problem in checked(**tar_options(*files)).problems]
    assert len(words) == 1 and "has the same key" in words[0] and "'a'" in words[0]
    again = shard(tmp_path / "c.tar", ["a", "b"], {"b.png": b"again"})
    assert any("is listed twice" in str(problem) for problem in checked(**tar_options(again)).problems)
    found = checked(**tar_options(files[0], image="jpg"))
    assert len(found.problems) == 2 and "has no 'jpg'; expected one of cls, png" in str(found.problems[0])
    assert len(checked(**tar_options(files[0], label="cls", classes=1)).problems) == 2
    (lacks,) = checked(**tar_options(files[0], label="cls", classes=2)).problems  # both samples are of class 1
    assert "1 of the 2 classes have no training image" in str(lacks)


def test_shards_that_are_missing_in_the_middle(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        parquet(tmp_path / f"train-{number:05}-of-00005.parquet", first=12 * number)
    given: dict[str, Any] = {"path": "parquet", "resolution": 16, "validation": 2}
    everything = {"data_dir": str(tmp_path)}
    pattern = {"data_files": str(tmp_path / "train-*.parquet")}
    spelt = {"data_files": str(tmp_path / "train-{00000..00004}-of-00005.parquet")}
    for files in (everything, pattern, spelt):
        words = [str(problem) for problem in checked(**given, **files).problems]
        assert len(words) == 2, words
        for number, text in zip((2, 4), words, strict=True):
            assert f"train-{number:05}-of-00005.parquet" in text and "is missing" in text
        with pytest.raises(NotReady, match="00002-of-00005"):
            load(HuggingFaceOptions(**given, **files))
    named = [str(tmp_path / f"train-{number:05}-of-00005.parquet") for number in (0, 1, 3)]
    assert not checked(**given, data_files=named).problems  # whoever names each means these
    assert not describe(HuggingFaceOptions(**given, data_files=named)).missing


def test_all_missing_captions_of_a_folder_are_named(pictures: Pictures) -> None:
    place = pictures(count=9)
    (place / "007.png").write_text("no picture")  # which hides nothing
    lines = [{"file_name": f"{i:03}.png", "text": f"picture {i}" if i not in (2, 5) else " "} for i in range(11)]
    metadata = place / "metadata.jsonl"
    metadata.write_text(
        "\n".join(json.dumps(line) for line in lines if line["file_name"] not in ("003.png", "006.png"))
    )
    found = checked(**folder(place, caption="text"))
    told = [str(problem) for problem in found.problems]
    assert len(told) == 7 and "007.png: the image can't be decoded" in told[6]
    assert all("no line of the metadata" in text for text in told[:2]) and "003.png" in told[0] and "006.png" in told[1]
    assert all("a missing image" in text for text in told[2:4]) and "009.png" in told[2]  # as many as are missing
    assert all("the row's caption is empty" in text for text in told[4:6]) and "row 2," in told[4]
    with pytest.raises(NotReady, match=r"003\.png, .*006\.png: no line of the metadata"):
        load(HuggingFaceOptions(**folder(place, caption="text")))
    bare = HuggingFaceOptions(str(place), 16, validation=2)  # the metadata is read here too, and would drop them
    with pytest.raises(NotReady, match="no line of the metadata"):
        load(bare)
    (place / "metadata.csv").write_text('file_name,text\n000.png,one\n001.png,"tw')
    metadata.unlink()
    assert any("metadata.csv:3: the table can't" in str(p) for p in checked(**folder(place, caption="text")).problems)
    (place / "metadata.csv").unlink()
    metadata.write_text('{"file_name": "000.png"}\n{"file_name": "001.p')
    assert any("metadata.jsonl:2: not valid JSON" in str(p) for p in checked(**folder(place, caption="text")).problems)


def test_a_run_names_the_file_that_is_damaged_inside(tmp_path: Path) -> None:
    for number in range(3):
        table = pa.table({"image": pa.array([{"bytes": png(i), "path": None} for i in range(12)], KIND)})
        pq.write_table(table, tmp_path / f"train-{number:05}-of-00003.parquet", row_group_size=4)
    broken = tmp_path / "train-00001-of-00003.parquet"
    data = bytearray(broken.read_bytes())
    data[400:900] = b"\xa5" * 500
    broken.write_bytes(bytes(data))
    given = {"path": "parquet", "data_files": str(tmp_path / "*.parquet"), "resolution": 16, "validation": 2}
    named = r"train-00001-of-00003\.parquet: row group 0 can't be read"
    with pytest.raises(NotReady, match=named):
        load(HuggingFaceOptions(**given))
    stream = load(HuggingFaceOptions(**given, streaming=True, count=30)).train
    with pytest.raises(NotReady, match=named):
        stream.take(range(30))
    assert "train-00001-of-00003.parquet" in only(checked(**given))


def test_a_gap_among_numbered_shards(tmp_path: Path) -> None:
    for number in (7, 8, 10):
        shard(tmp_path / f"{number:04}.tar", [f"{number}"])
    given = {**tar_options(), "data_files": str(tmp_path / "*.tar")}
    found = checked(**given)
    assert "the shard 0009.tar is missing; put it at" in only(found) and found.images == 3
    with pytest.raises(NotReady, match=r"the shard 0009\.tar is missing"):  # a run does not begin without it
        load(HuggingFaceOptions(**given))
    named = {**given, "data_files": [str(tmp_path / f"{number:04}.tar") for number in (7, 8, 10)]}
    assert not checked(**named).problems and len(load(HuggingFaceOptions(**named)).train) == 2
    assert missing_numbers(["a/x-001", "a/x-004"]) == [] and missing_numbers(["a/001.b", "b/002.b", "a/04.b"]) == []
    assert missing_numbers([f"a/part-{n}.b" for n in (8, 9, 11)]) == ["a/part-10.b"]  # as most tools number them
    assert missing_numbers([f"x_{n:02}.b" for n in (0, 1, 7)]) == [f"x_{n:02}.b" for n in range(2, 7)]
    assert missing_numbers(["faces-64.b", "faces-128.b", "faces-256.b"]) == []  # sizes
    assert missing_numbers([f"{n}.b" for n in (20240101, 20240201, 20250101)]) == []  # days
    assert missing_shards(["t-00000-of-00002", "v-00001-of-00002.x"]) == ["t-00001-of-00002", "v-00000-of-00002.x"]
    assert split_list("a{8..10}") == ("a8", "a9", "a10") and split_list("a{08..10}") == ("a08", "a09", "a10")
    with pytest.raises(UsageError, match="backwards"):
        split_list("a{3..1}")


def test_what_contradicts_itself_is_a_problem_too() -> None:
    assert "exactly one of" in only(checked(path="parquet", data_files="x", resolution=8))
    assert "is missing" in only(checked(path="./absent", resolution=8, validation=1))
    assert "FacesHQ" in only(checked("faceshq", root="absent"))


class Faulty(ArrayImages):
    """Images, some of which can't be loaded."""

    def take(self, indices: Any) -> Any:
        for index in indices:
            if index in (3, 130):
                raise BadImage(f"image {index} is broken")
            if index == 140:
                raise ValueError("odd")
        return super().take(indices)


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """A data set of a plugin."""


@pytest.mark.parametrize("threads", [1, 3])
def test_any_data_set_is_checked_by_what_it_loads(threads: int) -> None:
    pixels = np.zeros((150, 1, 4, 4), np.uint8)
    classes = np.arange(150) % 4
    facts = DataFacts(1, 4, 4, "print", held_out=20, conditions=(Condition("class", 3),))

    def spec(train: Any, held: int = 20) -> Any:
        splits = Splits(train, ArrayImages(pixels[:held], np.zeros(held, np.int64)))
        told = DatasetFacts(describe=lambda options: facts)
        return target_spec("dataset", "plain", lambda options: splits, options=NoOptions, facts=told, owner="test")

    seen: list[int] = []
    found = check_dataset_files(spec(Faulty(pixels, classes)), NoOptions(), threads=threads, progress=seen.append)
    assert [str(problem).partition(";")[0] for problem in found.problems[:3]] == [
        "training image 3: image 3 is broken", "training image 130: image 130 is broken",
        "training image 140: the data can't be read (ValueError: odd)",
    ]  # fmt: skip
    assert [problem.got for problem in found.problems[3:]] == [3] * 37  # the classes, all of them
    assert found.images == 170 == seen[-1] and seen == sorted(seen)
    found = check_dataset_files(spec(ArrayImages(pixels, classes), held=19), NoOptions(), threads=threads)
    assert "differs from the description" in str(found.problems[0])
    assert [problem.got for problem in found.problems[1:]] == [3] * 37
    wide = check_dataset_files(spec(ArrayImages(np.zeros((2, 1, 4, 5), np.uint8))), NoOptions(), threads=threads)
    words = [str(problem) for problem in wide.problems]
    assert all("another dtype or shape than described" in text for text in words[:2]) and len(words) == 3
    assert words[2] == "the classes of the training images: these images have no labels"
