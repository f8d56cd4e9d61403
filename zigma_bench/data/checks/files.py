"""Check the files of a `huggingface` source one by one, to find all broken files."""

from __future__ import annotations

import csv
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zigma_bench.conditioning.captions import captions_of_cell
from zigma_bench.data.checks.dataset import CHUNK, CheckResult, Part
from zigma_bench.data.latents.encoded import encoded_image
from zigma_bench.data.reading.decode import MEND, decode_image
from zigma_bench.data.reading.tar import AGAIN, TarSample, check_end, samples_of
from zigma_bench.data.sources import hub
from zigma_bench.data.sources.huggingface_files import SUFFIXES, HuggingFaceSource, find_source
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import BadImage, NotReady, UsageError, ZigmaBenchError, names_near

SHARD_KINDS = ("parquet", "arrow", "webdataset")
OTHER_KEY = "give each sample its own key"
NONE: frozenset[str] = frozenset()  # the files that a row of a table may point to


@dataclass(frozen=True)
class RowChecker:
    """Checks one image, its class label and its captions with the options of the data set."""

    options: HuggingFaceOptions

    @property
    def columns(self) -> list[str]:
        """The columns that the options name."""
        o = self.options
        return [name for name in (o.image, o.label, o.caption) if name is not None]

    def image(self, data: bytes, where: str) -> Iterator[ZigmaBenchError]:
        o = self.options
        try:
            decode_image(data, channels=o.channels, resolution=o.resolution, resize=o.resize, where=where)
        except BadImage as error:
            yield error

    def cell(self, cell: Any, table: str, place: str) -> Iterator[ZigmaBenchError]:
        """Check a cell of a table: bytes, or {bytes, path}."""
        try:
            data, where = encoded_image(cell, table, place, NONE)
        except BadImage as error:
            yield error
            return
        yield from self.image(data, where)

    def label(self, value: Any, where: str) -> Iterator[ZigmaBenchError]:
        classes = self.options.classes
        if classes is not None and (type(value) is not int or not 0 <= value < classes):
            expected = f"an integer from 0 to {classes - 1}"
            yield BadImage("class label out of range", where=where, expected=expected, got=value, do="fix the row")

    def row(self, cells: Mapping[str, Any], table: str, row: int) -> Iterator[ZigmaBenchError]:
        """Check a row of a table; `cells` maps columns to values."""
        o = self.options
        yield from self.cell(cells[o.image], table, f"row {row}, column {o.image!r}")
        if o.label is not None:
            yield from self.label(cells[o.label], f"{table}, row {row}, column {o.label!r}")
        if o.caption is not None:
            yield from self.caption(cells[o.caption], f"{table}, row {row}, column {o.caption!r}")

    def caption(self, value: Any, where: str) -> Iterator[ZigmaBenchError]:
        """Check a caption, or a list of captions."""
        try:
            if not isinstance(value, str | list | None):
                raise UsageError("not a text", where=where, got=value)
            captions_of_cell(value, where)
        except (NotReady, UsageError) as error:
            yield error


class Keys:
    """The keys of the samples of all tar files, to find duplicates."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def again(self, key: str, place: str) -> str | None:
        """The earlier place with this key, if any."""
        first = self.seen.setdefault(key, place)  # atomic, so threads can share this object
        return None if first == place else first


def check_parts(options: HuggingFaceOptions) -> Iterator[Part]:
    """One part per shard or per some image files; downloads a data set of the Hub, unless it is streamed."""
    source = find_source(options)
    if source.kind == "hub" and not source.missing and options.streaming:
        yield from _stream_parts(options)
        return
    if source.kind == "hub" and not source.missing:
        assert options.revision is not None
        options = replace(options, path=str(hub.fetch_data_set(options.path, options.revision)))
        source = find_source(options)
    files = [*source.train.files, *(source.validation.files if source.validation else ())]
    checker, pictures, keys = RowChecker(options), SUFFIXES["imagefolder"], Keys()
    shards = [file for file in files if not file.lower().endswith(pictures) and Path(file).stem != "metadata"]
    for file in shards:
        kind = options.path if options.path in SHARD_KINDS else None  # then a file can have any name
        if kind == "parquet" or (kind is None and file.lower().endswith(".parquet")):
            yield functools.partial(_check_parquet, checker, file)
        elif kind == "arrow" or (kind is None and file.lower().endswith(".arrow")):
            yield functools.partial(_check_arrow, checker, file)
        elif kind == "webdataset" or (kind is None and file.lower().endswith(".tar")):
            yield functools.partial(_check_tar, checker, file, keys)
    images = [file for file in files if file.lower().endswith(pictures)]
    if images and options.caption is not None:
        yield functools.partial(_check_metadata, checker, source)
    for start in range(0, len(images), CHUNK):
        yield functools.partial(_check_image_files, checker, images[start : start + CHUNK])


def _stream_parts(options: HuggingFaceOptions) -> Iterator[Part]:
    """Parts for the rows of a stream of the Hub, which is read once and not stored."""
    from zigma_bench.data.reading.stream import too_few
    from zigma_bench.data.sources.huggingface_stream import StreamRows

    checker = RowChecker(options)
    rows = StreamRows(options, "hub", ())
    rows.check()
    assert options.count is not None
    wanted, done = (options.validation or 0) + options.count, 0
    some: list[dict[str, Any]] = []
    try:
        for cells in itertools.islice(rows.cells(0), wanted):
            some.append(cells)
            if len(some) == CHUNK:
                yield functools.partial(_check_streamed, checker, some, rows.where, done)
                done, some = done + CHUNK, []
        if (got := done + len(some)) < wanted:
            raise too_few(rows.where, wanted, got)
    finally:  # even if the stream fails
        yield functools.partial(_check_streamed, checker, some, rows.where, done)


def _check_streamed(checker: RowChecker, rows: Sequence[dict[str, Any]], where: str, first: int) -> CheckResult:
    """Check rows of a stream, numbered from `first`."""
    numbered = enumerate(rows, first)
    return CheckResult(
        len(rows), tuple(problem for row, cells in numbered for problem in checker.row(cells, where, row))
    )


def _check_metadata(checker: RowChecker, source: HuggingFaceSource) -> CheckResult:
    """Check the captions of a folder of images: missing and empty ones."""
    from zigma_bench.data.sources import huggingface as hf

    problems: list[ZigmaBenchError] = []
    column = checker.options.caption
    assert column is not None, "the options name a caption column"
    with hf.quiet_datasets():
        opened = list(hf.dataset_builders(checker.options, source))
    for builder, listing in opened:
        unlisted, absent = hf.metadata_mismatches(builder, listing, checker.options.image)
        problems += [NotReady(hf.UNLISTED, where=file, do=hf.LINE) for file in unlisted]
        problems += [NotReady(hf.NO_IMAGE, where=file, do=hf.NO_LINE) for file in absent]
        for split in builder.info.splits:
            table = builder.as_dataset(split=split)
            if column not in table.column_names:
                expected = f"one of {', '.join(sorted(table.column_names))}"
                raise UsageError(f"there is no column {column!r}", where=str(source.base), expected=expected)
            for row, text in enumerate(table.with_format("arrow")[:][column].to_pylist()):
                problems += checker.caption(text, f"{source.base}, split {split!r}, row {row}, column {column!r}")
    return CheckResult(0, tuple(problems))


def _check_image_files(checker: RowChecker, files: Sequence[str]) -> CheckResult:
    """Check image files of a folder."""
    problems: list[ZigmaBenchError] = []
    for file in files:
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            problems.append(BadImage(f"the file can't be read ({error})", where=file, do=MEND))
            continue
        if data:
            problems += checker.image(data, file)
        else:
            problems.append(BadImage("the file is empty", where=file, do=MEND))
    return CheckResult(len(files), tuple(problems))


def check_opens(file: str) -> None:
    """Raise NotReady for a shard that can't be opened; reads only a small part of it."""
    if file.lower().endswith(".parquet"):
        _open_parquet(file).close()
    elif file.lower().endswith(".tar"):
        check_end(file)


def check_reads(file: str) -> None:
    """Raise NotReady for a shard, or a file of captions, that can't be read completely; reads all of it."""
    import pyarrow as pa

    check_opens(file)
    if file.lower().endswith(".jsonl"):
        _check_lines(file)
    if file.lower().endswith(".csv"):
        _check_table(file)
    if file.lower().endswith(".parquet"):
        with _open_parquet(file) as table:
            for group in range(table.num_row_groups):
                try:
                    table.read_row_group(group)
                except (OSError, pa.ArrowException) as error:
                    raise NotReady(
                        f"row group {group} can't be read ({_first_line(error)})", where=file, do=AGAIN
                    ) from error


def _check_table(file: str) -> None:
    with open(file, newline="", encoding="utf-8", errors="replace") as opened:
        rows = csv.reader(opened, strict=True)
        try:
            for _ in rows:
                pass
        except csv.Error as error:
            where = f"{file}:{rows.line_num}"
            raise NotReady(f"the table can't be read ({error})", where=where, do="fix the line") from error


def _check_lines(file: str) -> None:
    for number, line in enumerate(Path(file).read_bytes().splitlines(), 1):
        try:
            json.loads(line or b"{}")
        except ValueError as error:
            raise NotReady(f"not valid JSON ({error})", where=f"{file}:{number}", do="fix the line") from error


def _open_parquet(file: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise NotReady(f"the parquet file can't be opened ({_first_line(error)})", where=file, do=AGAIN) from error


def _check_parquet(checker: RowChecker, file: str) -> CheckResult:
    """Check a parquet file, one row group at a time, so that a broken one doesn't hide the others."""
    table = _open_parquet(file)
    columns, found, row = _used_columns(checker, table.schema_arrow.names, file), CheckResult(), 0
    with table:
        for group in range(table.num_row_groups):
            batches = table.iter_batches(CHUNK, row_groups=[group], columns=columns)
            found += _check_rows(checker, batches, file, row, f"row group {group}")
            row += table.metadata.row_group(group).num_rows
    return found


def _check_arrow(checker: RowChecker, file: str) -> CheckResult:
    """Check an Arrow file, which is a stream or has a footer."""
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
            raise NotReady(f"the Arrow file can't be opened ({_first_line(error)})", where=file, do=AGAIN) from error
        _used_columns(checker, table.schema.names, file)
        return _check_rows(checker, batches, file, 0, "a batch of rows")


def _used_columns(checker: RowChecker, names: list[str], file: str) -> list[str]:
    """The columns that the options name; UsageError for a missing one."""
    wanted = checker.columns
    for name in wanted:
        if name not in names:
            expected = f"one of {names_near(name, sorted(names))}"
            raise UsageError(f"there is no column {name!r}", where=file, expected=expected)
    return wanted


def _check_rows(checker: RowChecker, batches: Iterator[Any], file: str, first: int, what: str) -> CheckResult:
    """Check the rows of Arrow batches; `first` is the number of the first row in the file."""
    import pyarrow as pa

    problems: list[ZigmaBenchError] = []
    row = first
    try:
        for batch in batches:
            for index in range(batch.num_rows):
                cells = {name: batch.column(name)[index].as_py() for name in checker.columns}
                problems += checker.row(cells, file, row + index)
            row += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        problems.append(NotReady(f"{what} can't be read after row {row} ({_first_line(error)})", where=file, do=AGAIN))
    return CheckResult(row - first, tuple(problems))


def _check_tar(checker: RowChecker, file: str, keys: Keys) -> CheckResult:
    """Check a webdataset shard: every sample has all fields, and its key is unique."""
    problems: list[ZigmaBenchError] = []
    count = 0
    try:
        for sample in samples_of(file):
            count += 1
            where = f"{file}, sample {sample.key!r}"
            if (other := keys.again(sample.key, f"{file}, sample {count}")) is not None:
                problems.append(BadImage(f"{other} has the same key", where=where, do=OTHER_KEY))
            problems += _check_sample(checker, sample, where)
    except NotReady as error:
        problems.append(error)
    return CheckResult(count, tuple(problems))


def _check_sample(checker: RowChecker, sample: TarSample, where: str) -> Iterator[ZigmaBenchError]:
    o, fields = checker.options, sample.fields
    for name in sample.twice:
        yield BadImage(f"the field {name!r} of the sample is listed twice", where=where, do=OTHER_KEY)
    for name in (name for name in checker.columns if name not in fields):
        expected = f"one of {', '.join(sorted(fields))}"
        yield BadImage(f"the sample has no {name!r}", where=where, expected=expected, do="fix the sample")
    if o.image in fields:
        yield from checker.image(fields[o.image], f"{where}, {o.image!r}")
    if o.label is not None and o.label in fields:
        text = fields[o.label].strip()
        yield from checker.label(int(text) if text.isdigit() else text, where)
    if o.caption is not None and o.caption in fields:
        yield from checker.caption(fields[o.caption].decode("utf-8", "replace"), f"{where}, {o.caption!r}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
