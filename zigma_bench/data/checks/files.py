"""The files of a `huggingface` source, each looked at by itself: one that is broken hides no other."""

from __future__ import annotations

import csv
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zigma_bench.conditioning.captions import texts_of_cell
from zigma_bench.data.checks.dataset import CHUNK, Found, Part
from zigma_bench.data.latents.encoded import encoded
from zigma_bench.data.reading.decode import MEND, decode
from zigma_bench.data.reading.tar import AGAIN, Sample, check_end, samples_of
from zigma_bench.data.sources import hub
from zigma_bench.data.sources.huggingface_files import SUFFIXES, Source, find
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import BadImage, NotReady, UsageError, ZigmaBenchError

SHARD_KINDS = ("parquet", "arrow", "webdataset")
OTHER_KEY = "give each sample a key of its own"
NONE: frozenset[str] = frozenset()  # the files that a row of a table may point to


@dataclass(frozen=True)
class Judge:
    """Looks at one image, and at the class beside it, as the options want them."""

    options: HuggingFaceOptions

    @property
    def columns(self) -> list[str]:
        """Those that are wanted."""
        o = self.options
        return [name for name in (o.image, o.label, o.caption) if name is not None]

    def image(self, data: bytes, where: str) -> Iterator[ZigmaBenchError]:
        o = self.options
        try:
            decode(data, channels=o.channels, resolution=o.resolution, resize=o.resize, where=where)
        except BadImage as error:
            yield error

    def cell(self, cell: Any, table: str, place: str) -> Iterator[ZigmaBenchError]:
        """A cell of a table: bytes, or {bytes, path}."""
        try:
            data, where = encoded(cell, table, place, NONE)
        except BadImage as error:
            yield error
            return
        yield from self.image(data, where)

    def label(self, value: Any, where: str) -> Iterator[ZigmaBenchError]:
        classes = self.options.classes
        if classes is not None and (type(value) is not int or not 0 <= value < classes):
            expected = f"a whole number from 0 to {classes - 1}"
            yield BadImage("the class is none", where=where, expected=expected, got=value, do="mend the row")

    def row(self, cells: Mapping[str, Any], table: str, row: int) -> Iterator[ZigmaBenchError]:
        """A row of a table, by column."""
        o = self.options
        yield from self.cell(cells[o.image], table, f"row {row}, column {o.image!r}")
        if o.label is not None:
            yield from self.label(cells[o.label], f"{table}, row {row}, column {o.label!r}")
        if o.caption is not None:
            yield from self.caption(cells[o.caption], f"{table}, row {row}, column {o.caption!r}")

    def caption(self, value: Any, where: str) -> Iterator[ZigmaBenchError]:
        """A text, or a list of texts."""
        try:
            if not isinstance(value, str | list | None):
                raise UsageError("this is no text", where=where, got=value)
            texts_of_cell(value, where)
        except (NotReady, UsageError) as error:
            yield error


class Keys:
    """The keys of the samples of all tar files, for one that stands twice."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def again(self, key: str, place: str) -> str | None:
        """The place that had this key before, if any."""
        first = self.seen.setdefault(key, place)  # one step, whatever the threads
        return None if first == place else first


def parts(options: HuggingFaceOptions) -> Iterator[Part]:
    """A part for every file, for some of many small ones; where all is read, a data set of the Hub is downloaded."""
    source = find(options)
    if source.kind == "hub" and not source.missing and options.streaming:
        yield from _stream(options)
        return
    if source.kind == "hub" and not source.missing:
        assert options.revision is not None
        options = replace(options, path=str(hub.fetch(options.path, options.revision)))
        source = find(options)
    files = [*source.train.files, *(source.validation.files if source.validation else ())]
    judge, pictures, keys = Judge(options), SUFFIXES["imagefolder"], Keys()
    shards = [file for file in files if not file.lower().endswith(pictures) and Path(file).stem != "metadata"]
    for file in shards:
        kind = options.path if options.path in SHARD_KINDS else None  # then a file may be called anything
        if kind == "parquet" or (kind is None and file.lower().endswith(".parquet")):
            yield functools.partial(_parquet, judge, file)
        elif kind == "arrow" or (kind is None and file.lower().endswith(".arrow")):
            yield functools.partial(_arrow, judge, file)
        elif kind == "webdataset" or (kind is None and file.lower().endswith(".tar")):
            yield functools.partial(_tar, judge, file, keys)
    images = [file for file in files if file.lower().endswith(pictures)]
    if images and options.caption is not None:
        yield functools.partial(_metadata, judge, source)
    for start in range(0, len(images), CHUNK):
        yield functools.partial(_images, judge, images[start : start + CHUNK])


def _stream(options: HuggingFaceOptions) -> Iterator[Part]:
    """The rows of a stream of the Hub, which is read once and not stored."""
    from zigma_bench.data.reading.stream import too_few
    from zigma_bench.data.sources.huggingface_stream import StreamRows

    judge = Judge(options)
    rows = StreamRows(options, "hub", ())
    rows.check()
    assert options.count is not None
    wanted, done = (options.validation or 0) + options.count, 0
    some: list[dict[str, Any]] = []
    try:
        for cells in itertools.islice(rows.cells(0), wanted):
            some.append(cells)
            if len(some) == CHUNK:
                yield functools.partial(_streamed, judge, some, rows.where, done)
                done, some = done + CHUNK, []
        if (got := done + len(some)) < wanted:
            raise too_few(rows.where, wanted, got)
    finally:  # where the stream breaks off too
        yield functools.partial(_streamed, judge, some, rows.where, done)


def _streamed(judge: Judge, rows: Sequence[dict[str, Any]], where: str, first: int) -> Found:
    """Rows of a stream, the first of them number `first`."""
    numbered = enumerate(rows, first)
    return Found(len(rows), tuple(problem for row, cells in numbered for problem in judge.row(cells, where, row)))


def _metadata(judge: Judge, source: Source) -> Found:
    """The captions of a folder of images: those that lack, and those that are empty."""
    from zigma_bench.data.sources import huggingface as hf

    problems: list[ZigmaBenchError] = []
    column = judge.options.caption
    assert column is not None, "captions are asked for"
    with hf.quiet():
        opened = list(hf.builders(judge.options, source))
    for builder, listing in opened:
        passed_over, absent = hf.unlike_metadata(builder, listing, judge.options.image)
        problems += [NotReady(hf.PASSED_OVER, where=file, do=hf.LINE) for file in passed_over]
        problems += [NotReady(hf.NAMES_NONE, where=file, do=hf.NO_LINE) for file in absent]
        for split in builder.info.splits:
            table = builder.as_dataset(split=split)
            if column not in table.column_names:
                expected = f"one of {', '.join(sorted(table.column_names))}"
                raise UsageError(f"there is no column {column!r}", where=str(source.base), expected=expected)
            for row, text in enumerate(table.with_format("arrow")[:][column].to_pylist()):
                problems += judge.caption(text, f"{source.base}, split {split!r}, row {row}, column {column!r}")
    return Found(0, tuple(problems))


def _images(judge: Judge, files: Sequence[str]) -> Found:
    """Image files of a folder."""
    problems: list[ZigmaBenchError] = []
    for file in files:
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            problems.append(BadImage(f"the file can't be read ({error})", where=file, do=MEND))
            continue
        if data:
            problems += judge.image(data, file)
        else:
            problems.append(BadImage("the file is empty", where=file, do=MEND))
    return Found(len(files), tuple(problems))


def check_opens(file: str) -> None:
    """NotReady for a shard that can't be opened as what its name says; little of it is read."""
    if file.lower().endswith(".parquet"):
        _opened_parquet(file).close()
    elif file.lower().endswith(".tar"):
        check_end(file)


def check_reads(file: str) -> None:
    """NotReady for a shard, or a list of captions, that can't be read to its end; all of it is read."""
    import pyarrow as pa

    check_opens(file)
    if file.lower().endswith(".jsonl"):
        _check_lines(file)
    if file.lower().endswith(".csv"):
        _check_table(file)
    if file.lower().endswith(".parquet"):
        with _opened_parquet(file) as table:
            for group in range(table.num_row_groups):
                try:
                    table.read_row_group(group)
                except (OSError, pa.ArrowException) as error:
                    raise NotReady(f"row group {group} can't be read ({_line(error)})", where=file, do=AGAIN) from error


def _check_table(file: str) -> None:
    with open(file, newline="", encoding="utf-8", errors="replace") as opened:
        rows = csv.reader(opened, strict=True)
        try:
            for _ in rows:
                pass
        except csv.Error as error:
            where = f"{file}:{rows.line_num}"
            raise NotReady(f"the table can't be read ({error})", where=where, do="mend the line") from error


def _check_lines(file: str) -> None:
    for number, line in enumerate(Path(file).read_bytes().splitlines(), 1):
        try:
            json.loads(line or b"{}")
        except ValueError as error:
            raise NotReady(f"this is no JSON ({error})", where=f"{file}:{number}", do="mend the line") from error


def _opened_parquet(file: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise NotReady(f"the parquet file can't be opened ({_line(error)})", where=file, do=AGAIN) from error


def _parquet(judge: Judge, file: str) -> Found:
    """A parquet file, row group by row group, so that a broken one is named and the others are looked at."""
    table = _opened_parquet(file)
    columns, found, row = _columns(judge, table.schema_arrow.names, file), Found(), 0
    with table:
        for group in range(table.num_row_groups):
            batches = table.iter_batches(CHUNK, row_groups=[group], columns=columns)
            found += _rows(judge, batches, file, row, f"row group {group}")
            row += table.metadata.row_group(group).num_rows
    return found


def _arrow(judge: Judge, file: str) -> Found:
    """An Arrow file, as a stream or with a footer."""
    import pyarrow as pa

    with open(file, "rb") as opened:
        try:
            if opened.read(6) == b"ARROW1":
                table = pa.ipc.open_file(file)
                batches = (table.get_batch(index) for index in range(table.num_record_batches))
            else:
                opened.seek(0)
                table = pa.ipc.open_stream(opened)
                batches = iter(table)
        except (OSError, pa.ArrowException) as error:
            raise NotReady(f"the Arrow file can't be opened ({_line(error)})", where=file, do=AGAIN) from error
        _columns(judge, table.schema.names, file)
        return _rows(judge, batches, file, 0, "a batch of rows")


def _columns(judge: Judge, names: list[str], file: str) -> list[str]:
    """The columns that are wanted; UsageError if one isn't there."""
    wanted = judge.columns
    for name in wanted:
        if name not in names:
            raise UsageError(f"there is no column {name!r}", where=file, expected=f"one of {', '.join(sorted(names))}")
    return wanted


def _rows(judge: Judge, batches: Iterator[Any], file: str, first: int, what: str) -> Found:
    """The rows of batches of Arrow, the first of them number `first` of the file."""
    import pyarrow as pa

    problems: list[ZigmaBenchError] = []
    row = first
    try:
        for batch in batches:
            for index in range(batch.num_rows):
                cells = {name: batch.column(name)[index].as_py() for name in judge.columns}
                problems += judge.row(cells, file, row + index)
            row += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        problems.append(NotReady(f"{what} can't be read after row {row} ({_line(error)})", where=file, do=AGAIN))
    return Found(row - first, tuple(problems))


def _tar(judge: Judge, file: str, keys: Keys) -> Found:
    """A shard of webdataset: every sample has the image (and the class), and its key is that of no other."""
    problems: list[ZigmaBenchError] = []
    count = 0
    try:
        for sample in samples_of(file):
            count += 1
            where = f"{file}, sample {sample.key!r}"
            if (other := keys.again(sample.key, f"{file}, sample {count}")) is not None:
                problems.append(BadImage(f"its key was that of {other} before", where=where, do=OTHER_KEY))
            problems += _sample(judge, sample, where)
    except NotReady as error:
        problems.append(error)
    return Found(count, tuple(problems))


def _sample(judge: Judge, sample: Sample, where: str) -> Iterator[ZigmaBenchError]:
    o, fields = judge.options, sample.fields
    for name in sample.twice:
        yield BadImage(f"the field {name!r} of the sample stands twice", where=where, do=OTHER_KEY)
    for name in (name for name in judge.columns if name not in fields):
        expected = f"one of {', '.join(sorted(fields))}"
        yield BadImage(f"the sample has no {name!r}", where=where, expected=expected, do="mend the sample")
    if o.image in fields:
        yield from judge.image(fields[o.image], f"{where}, {o.image!r}")
    if o.label is not None and o.label in fields:
        text = fields[o.label].strip()
        yield from judge.label(int(text) if text.isdigit() else text, where)
    if o.caption is not None and o.caption in fields:
        yield from judge.caption(fields[o.caption].decode("utf-8", "replace"), f"{where}, {o.caption!r}")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
