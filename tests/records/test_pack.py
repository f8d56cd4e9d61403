"""Packed records: the same records from one file, deterministic bytes, and nothing removed that isn't packed."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from zigma_bench.errors import BrokenPack, Busy, ComparisonRefused, NewerFormat, UsageError
from zigma_bench.records.pack import pack_run, read_records, unpack_run
from zigma_bench.records.packed import PACKED, encode_packed, read_packed
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import only_writer, read_record, record_folders, write_record

TIMES = ("2026-11-30T00:00:00.000000Z",) * 2
TABLE = {
    "format": 1, "suite": "toy", "run": "main", "created": TIMES[0], "updated": TIMES[1], "options": [],
    "suite_sha256": "0" * 64, "content": {}, "question": "Why?", "smoke": False, "budget": {"images": 5},
    "reference": "train", "sample_count": 9, "residual": [], "baseline": {"backbone": None, "scan": None}, "cells": [],
}  # fmt: skip


def made(stage: str, value: float) -> Record:
    figure = Measurement.of("val-loss", value, "1", fingerprint={"n": 9}, raw=(0.1, value))
    return Record(stage, f"{stage}{value}", {"seed": 1}, "done", (figure,), details={"a": [1, 2]}, files={"x": "0"})


@pytest.fixture
def run(tmp_path):
    """A run of two cells with two finished stages each, with files beside the records, and a sheet."""
    folder = tmp_path / "toy" / "main"
    for cell in ("b-1", "a-2"):
        for stage in ("train", "sample"):
            write_record(folder / cell / f"{stage}-0", made(stage, 0.1 + len(stage)))
            (folder / cell / f"{stage}-0" / "weights").write_bytes(b"w")
        (folder / cell / "log.txt").touch()
    (folder / "sheet.png").write_bytes(b"png")
    (folder / "table.json").write_text(json.dumps(TABLE))
    return folder


def folders(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.glob("*-*/*-*"))


def test_a_packed_run_reads_as_before(run):
    before = {folder: read_record(folder) for folder in record_folders(run)}
    texts = {folder: (folder / "record.json").read_bytes() for folder in before}
    assert (pack_run(run).records, folders(run)) == (4, ["a-2/sample-0", "a-2/train-0", "b-1/sample-0", "b-1/train-0"])
    done = pack_run(run, remove=True)
    assert ([path.name for path in done.removed], done.left) == (["a-2", "b-1"], {})
    assert sorted(path.name for path in run.iterdir()) == [".lock", PACKED, "sheet.png", "table.json"]
    assert {folder: read_record(folder) for folder in record_folders(run)} == before
    assert read_record(run / "a-2" / "train-0", "another") is None
    assert list(read_records(run)) == list(before.values())
    assert [path.name for path in record_folders(run, "train")] == ["train-0", "train-0"]
    assert unpack_run(run).left == {}
    assert {folder: (folder / "record.json").read_bytes() for folder in before} == texts
    assert not (run / PACKED).exists()


def test_equal_records_make_equal_bytes(run):
    pack_run(run)
    first, time = (run / PACKED).read_bytes(), os.stat(run / PACKED).st_mtime_ns
    pack_run(run, remove=True)
    pack_run(run)
    assert (run / PACKED).read_bytes() == first
    assert os.stat(run / PACKED).st_mtime_ns == time, "and the file isn't written again"
    unpack_run(run)
    pack_run(run)
    assert (run / PACKED).read_bytes() == first
    places = [json.loads(line).get("place") for line in gzip.decompress(first).splitlines()]
    assert places == [None, "a-2/sample-0", "a-2/train-0", "b-1/sample-0", "b-1/train-0"]


def test_a_stage_that_ran_again_counts_and_is_packed_anew(run):
    pack_run(run, remove=True)
    newer = replace(made("train", 5.1), identity="newer")
    write_record(run / "a-2" / "train-0", newer)
    assert read_record(run / "a-2" / "train-0") == newer
    assert pack_run(run, remove=True).removed == (run / "a-2",)
    assert read_record(run / "a-2" / "train-0") == newer
    assert len(list(read_records(run))) == 4


def test_a_kill_while_folders_are_removed_leaves_a_run_that_can_be_packed(run, monkeypatch):
    before = list(read_records(run))
    remove, calls = shutil.rmtree, []

    def killed(folder):
        calls.append(folder)
        if len(calls) == 2:  # after its first file
            (folder / "record.json").unlink()
            raise KeyboardInterrupt
        remove(folder)

    monkeypatch.setattr("zigma_bench.records.pack.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        pack_run(run, remove=True)
    monkeypatch.undo()
    assert list(read_records(run)) == before and folders(run) == ["a-2/train-0", "b-1/sample-0", "b-1/train-0"]
    assert pack_run(run, remove=True).left == {} and folders(run) == []
    assert list(read_records(run)) == before


def test_unfinished_stages_and_cells_at_work_stay(run):
    (run / "a-2" / "quality-0").mkdir()
    (run / "b-1" / "train-0" / "checkpoint-000000004").mkdir()
    left = pack_run(run, remove=True).left
    assert set(left) == {run / "a-2", run / "b-1"} and all("not finished" in reason for reason in left.values())
    assert folders(run) == ["a-2/quality-0", "b-1/train-0"]


def test_a_cell_of_a_living_process_stays(run):
    with only_writer(run / "a-2"):
        child = multiprocessing.get_context("fork").Process(target=_pack_in_child, args=(run,))
        child.start()
        child.join()
        assert child.exitcode == 7
        assert folders(run) == ["a-2/sample-0", "a-2/train-0"]
    assert pack_run(run, remove=True).removed == (run / "a-2",)


def _pack_in_child(run: Path) -> None:
    done = pack_run(run, remove=True)
    busy = unpack_run(run)
    shutil.rmtree(run / "b-1")  # which unpacking has written
    stays = set(done.left or ()) == set(busy.left or ()) == {run / "a-2"} and (run / PACKED).exists()
    os._exit(7 if stays else 1)


def test_two_processes_do_not_pack_one_run(run, monkeypatch):
    monkeypatch.setattr("zigma_bench.records.store.LOCK_SECONDS", 0)
    with only_writer(run), pytest.raises(Busy, match="packed records of this run"):
        _in_another_process(run)


def _in_another_process(run: Path) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(pack_run, (run,))


def test_nothing_is_removed_if_the_written_file_is_wrong(run, monkeypatch):
    before = folders(run)
    monkeypatch.setattr("zigma_bench.records.pack.encode_packed", lambda records: encode_packed({}))
    with pytest.raises(BrokenPack, match="nothing was removed"):
        pack_run(run, remove=True)
    assert folders(run) == before


def test_a_broken_record_is_not_packed(run):
    (run / "a-2" / "train-0" / "record.json").write_text("{")
    with pytest.raises(ComparisonRefused, match="not a record"):
        pack_run(run, remove=True)
    assert not (run / PACKED).exists() and len(folders(run)) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-9], "can't be read"),
        (lambda data: b"{}", "can't be read"),
        (lambda data: gzip.compress(gzip.decompress(data).replace(b"a-2/train-0", b"../../x")), "not CELL/STAGE"),
        (lambda data: gzip.compress(b"\n".join(gzip.decompress(data).splitlines()[:-1])), "its first line counts 4"),
    ],
)
def test_a_damaged_file_is_named_and_counts_as_no_missing_record(run, change, words):
    pack_run(run, remove=True)
    (run / PACKED).write_bytes(change((run / PACKED).read_bytes()))
    with pytest.raises(BrokenPack, match=words) as caught:
        read_record(run / "a-2" / "train-0")
    assert PACKED in str(caught.value) and "restore the file" in str(caught.value)


def test_a_later_format_is_left_alone(run):
    pack_run(run, remove=True)
    (run / PACKED).write_bytes(gzip.compress(b'{"format":2,"records":0}\n'))
    with pytest.raises(NewerFormat):
        read_packed(run)


def test_the_lines_are_bounded(run, monkeypatch):
    pack_run(run)
    monkeypatch.setattr("zigma_bench.records.packed.MAX_BYTES", 10)
    os.utime(run / PACKED, ns=(1, 1))
    with pytest.raises(BrokenPack, match="more than 10 bytes"):
        read_packed(run)


def test_only_runs_are_packed(tmp_path, run):
    for act in (pack_run, unpack_run):
        with pytest.raises(UsageError, match="doesn't contain the results of a run"):
            act(tmp_path)
    with pytest.raises(UsageError, match="no packed records"):
        unpack_run(run)


def test_a_lock_whose_folder_is_removed_is_taken_in_the_new_folder(tmp_path):
    """A process that waited for a cell which is then packed must hold the lock that others see."""
    cell, ready = tmp_path / "cell", tmp_path / "ready"
    with only_writer(cell):
        child = multiprocessing.get_context("fork").Process(target=_wait_for, args=(cell, ready))
        child.start()
        while not ready.exists() and child.is_alive():
            pass
        shutil.rmtree(cell)
    child.join()
    assert child.exitcode == 7


def _wait_for(cell: Path, ready: Path) -> None:
    ready.touch()
    with only_writer(cell, wait=True):
        os._exit(7 if (cell / ".lock").exists() else 1)


def test_a_study_takes_less_than_a_megabyte():
    """450 records like those of the suite of orders in results/."""
    folder = Path(__file__).parents[2] / "results" / "orders-cifar" / "main"
    found = list(read_records(folder))
    many = {
        f"cell-{number}/{record.stage}-0": replace(record, identity=f"{number}")
        for number, record in enumerate(found * (450 // len(found) + 1))
    }
    assert len(many) >= 450 and len(encode_packed(many)) < 2**20
