"""A store of arrays: it reads what was written, a kill loses at most one shard, and broken or foreign stores are
named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zigma_bench.data.reading.arrays import ArrayField, ArrayLayout, ArrayWriter, broken_shards, open_store, open_writer
from zigma_bench.errors import NotReady, UsageError

FIELDS = {"features": ArrayField("float16", (3, 2)), "length": ArrayField("int64", ())}
LAYOUT = ArrayLayout({"data": "a", "encoder": {"sha256": "b"}}, FIELDS, rows=23, shard_rows=5)
FEATURES = np.random.default_rng(0).standard_normal((23, 3, 2)).astype(np.float16)
LENGTHS = np.arange(23, dtype=np.int64)


def fill(writer: ArrayWriter, shards: list[int]) -> None:
    for shard in shards:
        rows = writer.layout.shards[shard]
        part = slice(rows.start, rows.stop)
        writer.write(shard, {"features": FEATURES[part], "length": LENGTHS[part]})


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    writer = open_writer(tmp_path / "store", LAYOUT)
    fill(writer, writer.due())
    return tmp_path / "store"


def test_rows_come_back_in_any_order_and_twice(whole: Path) -> None:
    store = open_store(whole, LAYOUT, do="")
    wanted = [22, 0, 7, 7, 4, 5]
    assert np.array_equal(store.take("features", wanted), FEATURES[wanted])
    assert np.array_equal(store.take("length", wanted), LENGTHS[wanted])
    assert len(store) == 23 and store.take("features", []).shape == (0, 3, 2)


@pytest.mark.parametrize("index", [-1, 23])
def test_a_row_outside_is_an_error(whole: Path, index: int) -> None:
    with pytest.raises(IndexError, match="of 23"):
        open_store(whole, LAYOUT, do="").take("length", [index])


def test_a_layout_keeps_the_number_of_shards_bounded() -> None:
    assert len(ArrayLayout.of({}, FIELDS, 1_281_167).shards) <= 128
    shards = ArrayLayout.of({}, FIELDS, 1000).shards
    assert [index for shard in shards for index in shard] == list(range(1000))


def test_a_killed_writer_resumes_with_the_missing_shards(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    fill(open_writer(folder, LAYOUT), [0, 3])
    np.save(folder / "0000001.features.npy", FEATURES[5:10])  # killed before the shard's list of checksums
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("0000003.*")}
    with pytest.raises(NotReady, match=r"shard 1 is missing, and 2 more.*encode it"):
        open_store(folder, LAYOUT, do="encode it")
    writer = open_writer(folder, LAYOUT)
    assert writer.due() == [1, 2, 4]
    fill(writer, writer.due())
    assert np.array_equal(open_store(folder, LAYOUT, do="").take("features", range(23)), FEATURES)
    assert kept == {file: file.stat().st_mtime_ns for file in folder.glob("0000003.*")}


def test_a_flipped_bit_is_found_and_written_again(whole: Path) -> None:
    file = whole / "0000002.features.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert [fault.shard for fault in broken_shards(whole, LAYOUT)] == [2]
    assert "a wrong checksum" in broken_shards(whole, LAYOUT)[0].reason
    writer = open_writer(whole, LAYOUT)
    fill(writer, writer.due())
    assert broken_shards(whole, LAYOUT) == []
    assert np.array_equal(open_store(whole, LAYOUT, do="").take("features", range(23)), FEATURES)


@pytest.mark.parametrize("checksums", [True, False])
def test_a_short_file_and_a_lost_one_are_found(whole: Path, checksums: bool) -> None:
    short, lost, text = (whole / name for name in ("0000000.length.npy", "0000001.length.npy", "0000004.json"))
    short.write_bytes(short.read_bytes()[:-3])
    lost.unlink()
    text.write_text("{")
    assert [fault.shard for fault in broken_shards(whole, LAYOUT, checksums=checksums)] == [0, 1, 4]
    with pytest.raises(NotReady, match=r"shard 0 is broken: 0000000.length.npy"):
        open_store(whole, LAYOUT, do="")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(LAYOUT, identity={"data": "a", "encoder": {"sha256": "c"}}), "another encoder"),
        (replace(LAYOUT, identity={"data": "a"}), "another encoder"),
        (replace(LAYOUT, rows=24), "another rows"),
        (replace(LAYOUT, fields={"features": FIELDS["features"]}), "another fields"),
    ],
)
def test_another_store_is_refused_and_left_alone(whole: Path, other: ArrayLayout, named: str) -> None:
    for use in (lambda: open_writer(whole, other), lambda: open_store(whole, other, do="")):
        with pytest.raises(NotReady, match=f"{named}.*expected.*got"):
            use()
    assert broken_shards(whole, LAYOUT) == []


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"the store does not exist yet.*run the encoder"):
        open_store(tmp_path, LAYOUT, do="run the encoder")
    (tmp_path / "store.json").write_text("[]")
    with pytest.raises(NotReady, match="not a description of a store"):
        open_writer(tmp_path, LAYOUT)


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, LAYOUT)
    with pytest.raises(UsageError, match=r"'features' don't fit.*float64"):
        writer.write(0, {"features": FEATURES[:5].astype(np.float64), "length": LENGTHS[:5]})
    assert 0 in writer.due()


def test_a_full_disk_is_an_error_and_leaves_the_other_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(tmp_path, LAYOUT)
    fill(writer, [0])

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zigma_bench.data.reading.arrays.write_atomic", full)
    with pytest.raises(NotReady, match=r"shard 1 can't be written: No space left.*free some space"):
        fill(writer, [1])
    monkeypatch.undo()
    assert writer.due() == [1, 2, 3, 4]
