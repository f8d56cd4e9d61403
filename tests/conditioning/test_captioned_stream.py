"""Captions and classes of a stream: read once before its images, numbered like those of any data set, drawn anew at
each use, and the same after a restart."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.conditioning.captioned import CaptionedStream
from zigma_bench.conditioning.text_features import STREAM, check_captions, encode_captions, load_text_features
from zigma_bench.data.checks.dataset import check_dataset_files
from zigma_bench.data.images import Images, Splits, captions_of, draw_labels, epoch_of, labels_of
from zigma_bench.data.sources import huggingface_stream as streamed
from zigma_bench.data.sources.huggingface import load
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.data.transforms.apply import apply_transforms
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan.cells import NetworkCondition, TextFeatures
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.suite import Train
from zigma_bench.training.batch_plan import BatchPlan
from zigma_bench.training.feed import Feed
from zigma_bench.training.step import draw_batch

SIZE, CPU = 4, torch.device("cpu")
PRINTED = {0: "red", 1: "green", 2: "blue"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "zigma_bench.pretrained.text_encoders.CACHE_VARIABLE", "ZIGMA_BENCH_TEST_CACHE"
    )  # kernels stay where they are
    monkeypatch.setenv("ZIGMA_BENCH_TEST_CACHE", str(tmp_path / "cache"))


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def texts(number: int) -> list[str]:
    """Two captions for each picture; the first one is shared by many pictures."""
    return [f"a {PRINTED[number % 3]} one", f"picture number {number}"]


def parquet(folder: Path, count: int = 30, **changed: Any) -> str:
    """Two shards; `changed`: texts of some rows, as r7=..., instead of their own."""
    folder.mkdir(exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for shard, numbers in enumerate((range(count // 2), range(count // 2, count))):
        cells = pa.array([{"bytes": png(n), "path": None} for n in numbers], kind)
        said = pa.array([changed.get(f"r{n}", texts(n)) for n in numbers], pa.list_(pa.string()))
        table = pa.table({"image": cells, "text": said, "label": [n % 3 for n in numbers]})
        pq.write_table(table, folder / f"train-{shard:05}-of-00002.parquet", row_group_size=4)
    return str(folder / "train-*.parquet")


def opened(files: str, **rest: Any) -> Splits:
    given: dict[str, Any] = {"path": "parquet", "validation": 5, "count": 25, "shuffle_buffer": 6, "caption": "text"}
    return load(HuggingFaceOptions(**{**given, **rest}, resolution=SIZE, data_files=files, streaming=True))


def told() -> TextFeatures:
    facts = encoders.describe_encoder("random-words", None, None)
    return TextFeatures(
        encoder="random-words", revision=None, fingerprint=facts.fingerprint, images="data", width=facts.width,
        tokens=6, mask=True, cache=None,
    )  # fmt: skip


def known(splits: Splits) -> list[str]:
    """The captions by number."""
    assert isinstance(splits.train, CaptionedStream)
    return list(splits.train.known)


def numbers(pixels: Any) -> list[int]:
    return [int(image[0, 0, 0]) for image in pixels]


def taken(images: Images, steps: range, workers: int = 0) -> list[tuple[list[int], list[int]]]:
    job = BatchPlan(images, 4, 1, labelled=True)
    with Feed(job, Train(batch=4, workers=workers), start=steps.start, stop=steps.stop, on_gpu=False) as feed:
        found = [feed(step) for step in steps]
    assert all(t.labels is not None for t in found)
    return [(numbers(t.pixels), t.labels.tolist()) for t in found]  # type: ignore[union-attr]


def test_every_image_of_an_epoch_has_one_of_its_own_captions(tmp_path: Path) -> None:
    splits, table = load_text_features(opened(parquet(tmp_path)), told(), device="cpu")
    said, seen = known(splits), set[tuple[int, str]]()
    assert table.null == len(said)
    for pictures, labels in taken(splits.train, range(40)):
        for picture, label in zip(pictures, labels, strict=True):
            assert said[label] in texts(picture)
            seen.add((picture, said[label]))
    assert len(seen) == 2 * 25  # both texts of each
    assert [said[n] for n in labels_of(splits.validation, range(5))] == [texts(n)[0] for n in range(5)]
    assert captions_of(splits.train, [24, 0]) == [tuple(texts(29)), tuple(texts(5))]


def test_a_restart_and_a_process_draw_the_same_captions(tmp_path: Path) -> None:
    files = parquet(tmp_path)
    splits = load_text_features(opened(files), told(), device="cpu")[0]
    whole = taken(splits.train, range(16))
    again = load_text_features(opened(files), told(), device="cpu")[0]
    for start in (5, 6, 7):
        assert taken(again.train, range(start, 16)) == whole[start:]
    assert taken(again.train, range(3, 16), workers=2) == whole[3:]
    turned = load_text_features(apply_transforms(opened(files), [lambda pixels: 255 - pixels]), told(), device="cpu")[0]
    assert [labels for _, labels in taken(turned.train, range(16))] == [labels for _, labels in whole]


def test_captions_are_read_without_images_and_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, read = parquet(tmp_path), list[bool]()
    cells = streamed.StreamRows.cells

    def counted(self: Any, start: int, *, pictures: bool = True) -> Iterator[dict[str, Any]]:
        read.append(pictures)
        for row in cells(self, start, pictures=pictures):
            assert ("image" in row) == pictures
            yield row

    monkeypatch.setattr(streamed.StreamRows, "cells", counted)
    load_text_features(opened(files), told(), device="cpu")
    assert read == [False, True]  # the captions of the stream, and the held-out images
    read.clear()
    splits = load_text_features(opened(files), told(), device="cpu")[0]
    assert read == [True]
    assert isinstance(splits.train, CaptionedStream) and len(splits.train.known) == 3 + 30
    (tmp_path / "cache").rename(tmp_path / "away")
    load_text_features(opened(files), told(), device="cpu")
    assert read == [True, False, True]


def test_encoding_before_a_run_and_checking_it(tmp_path: Path) -> None:
    files, text = parquet(tmp_path), told()
    assert check_captions(opened(files), text) == [f"the captions' features in {text.folder} are missing or incomplete"]
    count = encode_captions(opened(files), text, "cpu", lambda done, said: None, lambda: False)
    assert count == 33 and not check_captions(opened(files), text)
    (text.folder / STREAM).write_bytes(b"no numbers")
    (fault,) = check_captions(opened(files), text)
    assert STREAM in fault
    assert load_text_features(opened(files), text, device="cpu")[0].train is not None  # it is read again
    encode_captions(opened(files), text, "cpu", lambda done, said: None, lambda: False)
    assert not check_captions(opened(files), text)


def test_a_stream_that_changed_is_not_paired_with_old_features(tmp_path: Path) -> None:
    load_text_features(opened(parquet(tmp_path)), told(), device="cpu")
    changed = opened(parquet(tmp_path, r9=["something else"]))
    splits = load_text_features(changed, told(), device="cpu")[0]
    with pytest.raises(
        NotReady, match=r"a caption of the stream changed after it was encoded; got 'something else'.*--check"
    ):
        taken(splits.train, range(7))
    with pytest.raises(NotReady, match="another captions_sha256"):
        check_captions(changed, told())


@pytest.mark.parametrize(("text", "reason"), [([], "no caption"), (["fine", " "], "caption 1 of the row is empty")])
def test_a_row_without_a_caption_is_named(tmp_path: Path, text: list[str], reason: str) -> None:
    files = parquet(tmp_path, r11=text)
    with pytest.raises(NotReady, match=rf"row 11, column 'text': .*{reason}"):
        load_text_features(opened(files), told(), device="cpu")
    given: dict[str, Any] = {"path": "parquet", "validation": 5, "count": 25, "caption": "text", "streaming": True}
    found = check_dataset_files(
        catalogue().get("dataset", "huggingface"), HuggingFaceOptions(**given, resolution=4, data_files=files)
    )
    assert any("row 11" in str(problem) for problem in found.problems)


def test_columns_without_captions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'words'; expected one of image, label, text; set caption"):
        opened(parquet(tmp_path), caption="words")
    with pytest.raises(UsageError, match="'label' contains no captions"):
        opened(parquet(tmp_path), caption="label")
    with pytest.raises(UsageError, match="have no captions; name their column with caption"):
        captions_of(opened(parquet(tmp_path), caption=None).train, [0])


def test_shards_of_webdataset_with_captions_and_classes(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:03}.tar", "w") as tar:
            for number in range(10 * shard, 10 * shard + 10):
                said = texts(number)[1].encode()
                for suffix, data in (("png", png(number)), ("txt", said), ("cls", str(number % 3).encode())):
                    info = tarfile.TarInfo(f"{number:05}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    rest = {"path": "webdataset", "image": "png", "count": 15}
    files = str(tmp_path / "{000..001}.tar")
    plain = opened(files, **rest, caption="txt", label="cls", classes=3)
    assert labels_of(plain.train, range(15)).tolist() == [n % 3 for n in range(5, 20)]
    assert draw_labels(epoch_of(plain.train, 0, 0), range(3), 0).max() < 3
    splits = load_text_features(plain, told(), device="cpu")[0]
    for pictures, labels in taken(splits.train, range(4)):
        assert [known(splits)[label] for label in labels] == [texts(picture)[1] for picture in pictures]


def test_some_captions_are_dropped_in_training(tmp_path: Path) -> None:
    splits, table = load_text_features(opened(parquet(tmp_path)), told(), device="cpu")
    given = NetworkCondition(
        kind="text", size=table.store.layout.fields["features"].shape[1], droppable=True, tokens=6, masked=True
    )
    empty = table(torch.tensor([table.null]))[0][0]
    dropped = [
        torch.equal(features, empty)
        for step in range(20)
        for features in draw_batch(splits.train, Train(batch=10, drop_condition=0.3), 0, step, CPU, given, table).y  # type: ignore[union-attr]
    ]
    assert 30 <= sum(dropped) <= 90


def test_classes_of_a_stream_are_read_once_without_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = opened(parquet(tmp_path), caption=None, label="label", classes=3).train
    assert labels_of(images, [24, 3]).tolist() == [29 % 3, 8 % 3]
    monkeypatch.setattr(streamed.StreamRows, "cells", lambda *_, **__: pytest.fail("read again"))
    assert labels_of(images, [0]).tolist() == [5 % 3]


TEXTED = (
    "{name: zigma, width: 32, depth: 2, patch: 2}",
    "{name: zigma, width: 32, depth: 2, patch: 2, condition: text, text_width: 64, text_tokens: 6}",
)


def test_a_suite_on_a_captioned_stream_runs_and_encodes_before(write_suite: Any, tmp_path: Path) -> None:
    data = (
        f"{{name: huggingface, path: parquet, data_files: {parquet(tmp_path / 'files', 60)}, resolution: 4, "
        "caption: text, streaming: true, validation: 20, count: 40, "
        f"text: {{encoder: random-words, tokens: 6, cache: {tmp_path / 'features'}}}}}"
    )
    path = write_suite(
        ("{name: digits}", data), TEXTED, ("  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n", ""),
        ("[raster, {name: zigzag, paths: 8}]", "[raster]"), ("seeds: [0, 1]", "seeds: [0]"),
        ("{count: 32", "{count: 8"),
    )  # fmt: skip
    results = ["--results", str(tmp_path / "results")]
    missing = CliRunner().invoke(app, ["data", "encode", str(path), "--check", *results])
    assert missing.exception is not None and "missing or incomplete" in str(missing.exception)
    done = CliRunner().invoke(app, ["data", "encode", str(path), *results])
    assert done.exit_code == 0 and "63 captions" in done.stdout, done.output
    checked = CliRunner().invoke(app, ["data", "encode", str(path), "--check", *results])
    assert checked.exit_code == 0, checked.exception
    run = CliRunner().invoke(app, ["run", str(path), *results])
    assert run.exit_code == 0, run.output
    (captions,) = (tmp_path / "results").glob("*/*/zigma*raster*/sample-*/captions.json")
    held = {text for number in range(20) for text in texts(number)}
    assert set(json.loads(captions.read_text())) <= held
