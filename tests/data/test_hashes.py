"""The hashes of data files depend only on the contents, and are cached until a file changes."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from zigma_bench.data.cell_images import load_cell_splits
from zigma_bench.data.checks.dataset import check_dataset_files
from zigma_bench.data.reading import hashes
from zigma_bench.data.reading.hashes import Store, always_rehash, hashes_of
from zigma_bench.data.sources import huggingface_files as source
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import NotReady
from zigma_bench.plan import Cell, make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import load_suite

KNOWN = "b9ee7a0c355db614002f2beba274878e7f7ff0cd4a2df2343a155003153be933"
SUITE = """
# Which order is best?
name: photos
data: {name: huggingface, path: imagefolder, data_dir: "@DIR@", resolution: 16, validation: 3}
compare:
  - backbone: {name: zigma, width: 16, depth: 1, patch: 4}
    scans: [raster]
budget: {images: 64}
seeds: [0]
train: {batch: 16}
sample: {count: 1, batch: 1, evaluations: 2}
quality: [val-loss]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of cached hashes, separate for each test, in which files count as settled at once."""
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SETTLED_NS", -(10**12))
    return tmp_path / "cache" / hashes.NAME


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose contents are read, in no order."""
    names: list[str] = []
    plain = hashes._hash

    def noted(known: hashes.Known, buffer: memoryview) -> bytes:
        names.append(Path(known.file).name)
        return plain(known, buffer)

    monkeypatch.setattr(hashes, "_hash", noted)
    return names


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(hashes, "report_notice", lines.append)
    return lines


def written(folder: Path, **contents: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in contents]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cell_of(folder: Path, tmp_path: Path) -> Cell:
    file = tmp_path / "suite.yaml"
    file.write_text(SUITE.replace("@DIR@", str(folder)))
    cells = make_plan(*load_suite(file), catalogue()).cells
    return next(cell for cell in cells if cell.role == "cell")


def test_the_fingerprint_is_that_of_the_bytes_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, moved in (("here", 0), ("there/deep", 10**9)):
        for kind in ("cat", "dog"):
            file = written(tmp_path / place / kind, **{"1.png": f"the bytes of a {kind}"})[0]
            os.utime(file, (moved, moved))
        monkeypatch.chdir(tmp_path / place)
        for folder in (".", str(tmp_path / place)):
            options = HuggingFaceOptions("imagefolder", 16, data_dir=folder, validation=1)
            assert source.describe(options).fingerprint == KNOWN


def test_other_bytes_of_the_same_size_under_the_same_name_are_other_data(tmp_path: Path) -> None:
    options, prints = HuggingFaceOptions("imagefolder", 16, data_dir=str(tmp_path / "set"), validation=1), set()
    for text in ("light", "night"):
        file = written(tmp_path / "set", **{"1.png": text})[0]
        os.utime(file, (0, 0))
        prints.add(source.describe(options).fingerprint)
    assert len(prints) == 2


def test_a_file_is_read_once_while_it_is_the_same(tmp_path: Path, read: list[str]) -> None:
    files = written(tmp_path, a="one", b="two")
    assert hashes_of(files) == hashes_of(files) == [sha256("one"), sha256("two")]
    assert sorted(read) == ["a", "b"]
    before = os.stat(files[0])
    Path(files[0]).write_text("six")
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))  # only the time of the change differs
    assert hashes_of(files) == [sha256("six"), sha256("two")]
    assert sorted(read) == ["a", "a", "b"]


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, cache: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED_NS", 2_000_000_000)
    for _ in range(2):
        hashes_of(written(tmp_path, a="one"))
    assert read == ["a", "a"] and not cache.exists()


def damage_text(file: Path) -> None:
    file.write_text("this is no database" * 500)


def damage_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_hash(file: Path) -> None:
    with sqlite3.connect(file) as base:
        base.execute("UPDATE files SET sha256 = zeroblob(32)")


def damage_types(file: Path) -> None:
    with sqlite3.connect(file) as base:
        base.execute("UPDATE files SET sha256 = 7, seal = NULL")


@pytest.mark.parametrize("damage", [damage_text, damage_half, damage_hash, damage_types])
def test_damaged_memory_is_made_again(
    tmp_path: Path, cache: Path, read: list[str], notices: list[str], damage: Callable[[Path], None]
) -> None:
    files = written(tmp_path, a="one", b="two")
    hashes_of(files)
    damage(cache)
    for _ in range(2):
        assert hashes_of(files) == [sha256("one"), sha256("two")]
    assert len(read) == 4 and notices == []


def test_memory_of_another_format_costs_one_notice(tmp_path: Path, cache: Path, notices: list[str]) -> None:
    cache.parent.mkdir()
    with sqlite3.connect(cache) as base:
        base.execute("CREATE TABLE files (name TEXT)")
    assert hashes_of(written(tmp_path, a="one")) == [sha256("one")]
    assert len(notices) == 1 and str(cache) in notices[0]


def test_a_notice_reports_that_nothing_can_be_written(tmp_path: Path, cache: Path, notices: list[str]) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert hashes_of(written(tmp_path, a="one")) == [sha256("one")]
    assert len(notices) == 1 and str(cache) in notices[0]


def test_the_oldest_are_forgotten(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "MAX_ENTRIES", 5)
    files = written(tmp_path, **{f"{number:02}": str(number) for number in range(12)})
    for file in files:
        hashes_of([file])
    with sqlite3.connect(cache) as base:
        left = {Path(os.fsdecode(path)).name for (path,) in base.execute("SELECT path FROM files")}
    assert left == {Path(file).name for file in files[-5:]}


def test_many_write_at_once(tmp_path: Path, read: list[str], notices: list[str]) -> None:
    sets = [written(tmp_path, **{f"{one}-{two}": f"{one} {two}" for two in range(20)}) for one in range(8)]
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(hashes_of, sets))
    read.clear()
    assert [hashes_of(files) for files in sets] == first
    assert read == [] and notices == []


def named_pipe(file: Path) -> None:
    os.mkfifo(file)


def dangling_link(file: Path) -> None:
    file.symlink_to("nowhere")


def folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("make", [named_pipe, dangling_link, folder])
def test_what_is_no_readable_file_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "odd.png")
    with pytest.raises(NotReady, match=r"odd\.png"):
        hashes_of([tmp_path / "odd.png"])


def test_a_file_that_grows_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, look = written(tmp_path, growing="one"), hashes._look

    def then_grow(file: str, folders: dict[str, str]) -> hashes.Known:
        known = look(file, folders)
        Path(file).write_text("one more")
        return known

    monkeypatch.setattr(hashes, "_look", then_grow)
    with pytest.raises(NotReady, match="growing: the data file changed while it was read"):
        hashes_of(files)


def test_the_check_reads_every_byte_and_names_a_file_that_changed_unseen(
    pictures: Callable[..., Path], cache: Path, read: list[str]
) -> None:
    place = pictures(count=3)
    spec, options = catalogue().get("dataset", "huggingface"), {"path": str(place), "resolution": 16, "validation": 1}
    chosen = spec.make_options(spec.resolve(options, where="test"))
    right = spec.facts.describe(chosen).fingerprint
    altered = hashes._look(str(place / "001.png"), {})
    Store(cache).write([(altered, bytes(32))])  # as if the disk gave other bytes under the same times
    assert spec.facts.describe(chosen).fingerprint != right
    read.clear()
    problems = check_dataset_files(spec, chosen).problems
    assert [problem.where for problem in problems] == [str(place / "001.png")]
    assert sorted(read) == ["000.png", "001.png", "002.png"]
    assert spec.facts.describe(chosen).fingerprint == right and check_dataset_files(spec, chosen).problems == ()


def test_rehashing_compares_only_what_is_remembered(tmp_path: Path) -> None:
    files = written(tmp_path, a="one")
    with always_rehash() as first:
        hashes_of(files)
    assert first.wrong == []


def test_a_cell_whose_data_changed_after_the_plan_is_refused(pictures: Callable[..., Path], tmp_path: Path) -> None:
    cell = cell_of(place := pictures(), tmp_path)
    assert len(load_cell_splits(cell).train) == 3
    (place / "000.png").write_bytes((place / "001.png").read_bytes())
    with pytest.raises(NotReady, match="run the same command again") as caught:
        load_cell_splits(cell)
    text, now = str(caught.value), cell_of(place, tmp_path).data_fingerprint
    assert "huggingface" in text and cell.data_fingerprint in text and now in text
    assert len(load_cell_splits(cell_of(place, tmp_path)).train) == 3
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(NotReady, match="pictures is missing; put the images at"):
        load_cell_splits(cell)


def identities(cell: Cell) -> Any:
    return {stage: cell.identity(stage, device_model="") for stage in cell.stages}


def test_where_the_files_are_is_no_part_of_the_identity(pictures: Callable[..., Path], tmp_path: Path) -> None:
    here, there, other = (cell_of(place, tmp_path) for place in (pictures("a"), pictures("b/c"), pictures("d", seed=1)))
    assert here.data_places == ("data_dir", "data_files", "validation_files")
    assert identities(here) == identities(there)
    assert not set(identities(here).values()) & set(identities(other).values())
    undeclared = (cell.model_copy(update={"data_places": ()}) for cell in (here, there))
    assert not set.intersection(*(set(identities(cell).values()) for cell in undeclared))
