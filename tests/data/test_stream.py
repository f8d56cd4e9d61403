"""Streams: every image once per epoch, mixed by the buffer, the same after a restart, and never copied to disk."""

from __future__ import annotations

import io
import itertools
import pickle
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from zigma_bench.data.checks.dataset import check_dataset_files
from zigma_bench.data.images import Splits, labels_of
from zigma_bench.data.reading.readahead import read_ahead
from zigma_bench.data.reading.stream import buffered_order
from zigma_bench.data.sources import hub
from zigma_bench.data.sources.huggingface import load
from zigma_bench.data.sources.huggingface_files import describe
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.data.transforms.apply import apply_transforms
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import Train
from zigma_bench.training.batch_plan import BatchPlan
from zigma_bench.training.feed import Feed

SIZE = 4


def png(number: int) -> bytes:
    """A picture that encodes its number."""
    stream = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def parquet(folder: Path, sizes: tuple[int, ...] = (10, 7, 13), broken: int | None = None) -> str:
    """Shards of pictures 0, 1, 2, ... with the class number % 3; the pattern of their names."""
    folder.mkdir(exist_ok=True)
    kind, first = pa.struct({"bytes": pa.binary(), "path": pa.string()}), 0
    for shard, size in enumerate(sizes):
        numbers = range(first, first + size)
        cells = [{"bytes": b"no picture" if n == broken else png(n), "path": None} for n in numbers]
        texts = [[f"picture {n}", f"a picture of {n // 2}"] for n in numbers]
        table = pa.table({"image": pa.array(cells, kind), "label": [n % 3 for n in numbers], "text": texts})
        pq.write_table(table, folder / f"train-{shard:05}-of-{len(sizes):05}.parquet", row_group_size=4)
        first += size
    return str(folder / "train-*.parquet")


def streamed(files: str, **rest: Any) -> Splits:
    given: dict[str, Any] = {"path": "parquet", "validation": 5, "count": 25, "shuffle_buffer": 6, **rest}
    return load(HuggingFaceOptions(**given, resolution=SIZE, data_files=files, streaming=True))


def numbers(pixels: Any) -> list[int]:
    assert pixels.shape[1:] == (3, SIZE, SIZE)
    return [int(image[0, 0, 0]) for image in pixels]


def trained_on(splits: Splits, steps: range, workers: int = 0, labelled: bool = False) -> list[list[int]]:
    """The pictures of each step of a training."""
    job = BatchPlan(splits.train, 4, 1, labelled=labelled)
    with Feed(job, Train(batch=4, workers=workers), start=steps.start, stop=steps.stop, on_gpu=False) as feed:
        assert feed.workers == min(1, workers)
        taken = [feed(step) for step in steps]
    if labelled:
        assert all(t.labels is not None and t.labels.tolist() == [n % 3 for n in numbers(t.pixels)] for t in taken)
    return [numbers(t.pixels) for t in taken]


@pytest.mark.parametrize(("count", "buffer"), [(1, 1), (50, 1), (50, 7), (50, 50), (50, 99)])
def test_a_buffer_mixes_what_lies_within_its_reach(count: int, buffer: int) -> None:
    order = buffered_order(count, buffer, 0, 0)
    assert sorted(order) == list(range(count))
    assert (order - np.arange(count) < buffer).all()  # an image can't come before it is in the buffer
    if buffer > 1:
        assert not np.array_equal(order, np.arange(count))
        assert not np.array_equal(order, buffered_order(count, buffer, 0, 1))
        assert not np.array_equal(order, buffered_order(count, buffer, 1, 0))


def test_the_first_images_are_held_out_and_all_others_come_once_an_epoch(tmp_path: Path) -> None:
    splits = streamed(parquet(tmp_path), label="label", classes=3)
    assert numbers(splits.validation.take(range(5))) == [0, 1, 2, 3, 4]
    assert labels_of(splits.validation, [4, 1]).tolist() == [1, 1]
    assert (len(splits.train), len(splits.validation)) == (25, 5)
    assert numbers(splits.train.take([24, 0, 24])) == [29, 5, 29]
    assert labels_of(splits.train, [24, 0]).tolist() == [2, 2]
    seen = [*itertools.chain(*trained_on(splits, range(25), labelled=True))]
    for epoch in range(4):
        one = seen[25 * epoch : 25 * (epoch + 1)]
        assert sorted(one) == list(range(5, 30))
        assert one == (buffered_order(25, 6, 1, epoch) + 5).tolist()


def test_a_restart_and_a_process_see_the_same_images(tmp_path: Path) -> None:
    files = parquet(tmp_path)
    whole = trained_on(streamed(files), range(20))
    for start in (1, 5, 6, 7, 13):  # in the middle of an epoch and at its end
        assert trained_on(streamed(files), range(start, 20)) == whole[start:]
    assert trained_on(streamed(files), range(3, 20), workers=4) == whole[3:]


def test_little_more_than_the_buffer_is_held(tmp_path: Path) -> None:
    splits = streamed(parquet(tmp_path, sizes=(100,)), count=95)
    trained_on(splits, range(10))
    (reader,) = splits.train._epochs.values()  # type: ignore[attr-defined]
    assert len(reader.held) < 6 <= reader.number <= 46


def test_shards_of_webdataset(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:03}.tar", "w") as tar:
            for number in range(10 * shard, 10 * shard + 10):
                for suffix, data in (("png", png(number)), ("cls", str(number % 3).encode())):
                    info = tarfile.TarInfo(f"{number:05}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    files = str(tmp_path / "{000..001}.tar")
    splits = streamed(files, path="webdataset", image="png", label="cls", classes=3, count=15)
    seen = [*itertools.chain(*trained_on(splits, range(3), labelled=True))]
    assert len(set(seen)) == 12 and set(seen) < set(range(5, 20))
    assert numbers(splits.train.take(range(15))) == list(range(5, 20))


def test_validation_files_are_no_part_of_the_stream(tmp_path: Path) -> None:
    files = parquet(tmp_path / "a")
    other = parquet(tmp_path / "b", sizes=(3,))
    splits = streamed(files, validation=None, validation_files=other, count=30)
    assert numbers(splits.train.take(range(30))) == list(range(30))
    assert numbers(splits.validation.take(range(3))) == [0, 1, 2]


def test_transforms_of_a_stream(tmp_path: Path) -> None:
    splits = streamed(parquet(tmp_path))
    turned = apply_transforms(splits, [lambda pixels: 255 - pixels])
    plain = trained_on(splits, range(8))
    assert [[255 - n for n in step] for step in trained_on(turned, range(8))] == plain
    assert numbers(turned.validation.take([1])) == [254]


def test_a_copy_of_the_hub_is_streamed_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    options = HuggingFaceOptions(
        "owner/name", SIZE, validation=5, revision=commit, streaming=True, count=25, shuffle_buffer=6
    )
    assert "unset HF_HUB_OFFLINE" in describe(options).missing[0].do
    snapshot = hub._snapshot("owner/name", commit)
    snapshot.mkdir(parents=True)
    files = parquet(snapshot)
    hub._write_list("owner/name", commit)
    assert trained_on(load(options), range(9)) == trained_on(streamed(files), range(9))
    asked: list[Any] = []
    import datasets

    def from_hub(path: str, name: str | None, **rest: Any) -> Any:
        asked.append((path, name, rest.pop("revision", None), rest["streaming"], rest["split"]))
        return load_dataset("parquet", data_files={"train": files}, split="train", streaming=True)

    load_dataset = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", from_hub)
    monkeypatch.setattr(hub, "is_here", lambda name, commit: False)
    monkeypatch.setattr(hub, "hub_data_is_offline", lambda: False)
    monkeypatch.setattr(hub, "fetch_data_set", lambda name, commit: pytest.fail("a download"))
    assert trained_on(load(options), range(3)) == trained_on(streamed(files), range(3))
    assert asked[0] == ("owner/name", None, commit, True, "train")


def test_a_check_counts_a_stream_of_this_machine(tmp_path: Path) -> None:
    spec, files = catalogue().get("dataset", "huggingface"), parquet(tmp_path)
    given: dict[str, Any] = {
        "path": "parquet",
        "resolution": SIZE,
        "data_files": files,
        "streaming": True,
        "validation": 5,
    }
    assert not check_dataset_files(spec, HuggingFaceOptions(**given, count=25, label="label", classes=3)).problems
    (problem,) = check_dataset_files(spec, HuggingFaceOptions(**given, count=26)).problems
    assert "too few images; expected 31" in str(problem)
    (problem,) = check_dataset_files(spec, HuggingFaceOptions(**given, count=99)).problems
    assert "expected 104 (validation and count); got '103 at most'; lower" in str(problem)  # 30 are there


def test_a_check_reads_a_stream_of_the_hub_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    files, load_dataset = parquet(tmp_path, broken=7), datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset",
        lambda *_, **__: load_dataset("parquet", data_files={"train": files}, split="train", streaming=True),
    )  # fmt: skip
    monkeypatch.setattr(hub, "hub_data_is_offline", lambda: False)
    monkeypatch.setattr(hub, "fetch_data_set", lambda name, commit: pytest.fail("a download"))
    options = HuggingFaceOptions("owner/name", SIZE, validation=5, revision="a" * 40, streaming=True, count=20)
    found = check_dataset_files(catalogue().get("dataset", "huggingface"), options)
    (problem,) = found.problems
    assert found.images == 25 and "owner/name, row 7, column 'image': the image can't be decoded" in str(problem)
    options = HuggingFaceOptions("owner/name", SIZE, validation=5, revision="a" * 40, streaming=True, count=99)
    found = check_dataset_files(catalogue().get("dataset", "huggingface"), options)
    assert len(found.problems) == 2 and "too few images" in str(found.problems[1])


def test_a_stream_that_ends_early_or_breaks_is_a_clear_error(tmp_path: Path) -> None:
    short = streamed(parquet(tmp_path), count=26)
    with pytest.raises(NotReady, match=r"too few images; expected 31 .*; got 30; lower count or validation"):
        trained_on(short, range(7))
    bad = streamed(parquet(tmp_path, broken=9))
    with pytest.raises(BadImage, match=r"train-00000-of-00003.parquet and 2 more, row 9: the image can't be decoded"):
        trained_on(bad, range(7))
    with pytest.raises(BadImage, match="class label out of range; expected 0 to 1; got 2"):
        trained_on(streamed(parquet(tmp_path), label="label", classes=2), range(7), labelled=True)
    with pytest.raises(UsageError, match="no column 'picture'; expected one of image, label, text"):
        streamed(parquet(tmp_path), image="picture")
    with pytest.raises(UsageError, match="no column 'kind'"):
        streamed(parquet(tmp_path), label="kind", classes=2)
    with pytest.raises(UsageError, match="have no labels"):
        labels_of(streamed(parquet(tmp_path)).train, [0])
    last = tmp_path / "train-00002-of-00003.parquet"
    last.write_bytes(last.read_bytes()[:-50])
    with pytest.raises(NotReady, match=r"train-00002-of-00003\.parquet: the parquet file can't be opened"):
        trained_on(streamed(str(tmp_path / "train-*.parquet")), range(7))


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ({"count": None}, "number of training images"),
        ({"validation": None, "validation_split": "test"}, "holds out its first images"),
        ({"split": "train[:5]"}, "can't be streamed"),
        ({"path": "imagefolder"}, "a folder of images can't be streamed"),
        ({"streaming": False}, "count needs streaming"),
    ],
)
def test_options_that_a_stream_can_not_have(rest: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {
        "path": "parquet",
        "data_files": "x",
        "validation": 5,
        "count": 9,
        "streaming": True,
        **rest,
    }
    with pytest.raises(UsageError, match=reason):
        describe(HuggingFaceOptions(**given, resolution=SIZE))


def test_the_fingerprint_of_a_stream_contains_its_count_and_buffer(tmp_path: Path) -> None:
    given: dict[str, Any] = {"path": "parquet", "data_files": parquet(tmp_path), "validation": 5, "resolution": SIZE}
    plain = describe(HuggingFaceOptions(**given)).fingerprint
    prints = {
        describe(HuggingFaceOptions(**given, streaming=True, count=count, shuffle_buffer=buffer)).fingerprint
        for count in (9, 10)
        for buffer in (2, 3)
    }
    assert len(prints | {plain}) == 5


def test_a_stream_pickles_without_what_it_read(tmp_path: Path) -> None:
    splits = streamed(parquet(tmp_path))
    splits.train.take([3])
    assert numbers(pickle.loads(pickle.dumps(splits.train)).take([3])) == [8]


def test_reading_ahead_gives_the_same_items_and_ends_with_its_reader() -> None:
    def items(until: int) -> Iterator[int]:
        for number in range(until):
            read.append(number)
            yield number
        raise ValueError("broken")

    read: list[int] = []
    some = read_ahead(items(7), 3)
    assert [next(some) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="broken"):
        next(some)
    before = threading.active_count()
    ahead = read_ahead(items(1000), 3)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(read) <= 7 + 6
    del ahead
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == before


def test_a_step_takes_tensors(tmp_path: Path) -> None:
    taken = BatchPlan(streamed(parquet(tmp_path)).train, 4, 0, labelled=False).take(0)
    assert taken.pixels.dtype == torch.uint8 and taken.labels is None
