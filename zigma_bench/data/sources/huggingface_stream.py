"""A `huggingface` source as a stream: read with `datasets` from the Hub or from shards, without a local copy."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zigma_bench.conditioning.captions import captions_of_cell, check_captions
from zigma_bench.data.checks.files import check_opens, check_reads
from zigma_bench.data.images import Images, Splits
from zigma_bench.data.latents.encoded import encoded_image
from zigma_bench.data.reading.files import split_list
from zigma_bench.data.reading.splits import files_of_splits, split_names
from zigma_bench.data.reading.stream import HeadImages, Stream, StreamedImages, StreamRow
from zigma_bench.data.sources import hub
from zigma_bench.data.sources.huggingface_files import (
    SHUFFLE_BUFFER,
    HuggingFaceSource,
    builder_kind,
    find_source,
    read_files,
)
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import BadImage, NotReady, UsageError

NO_FILES: frozenset[str] = frozenset()  # the files that a row may point to


def load(options: HuggingFaceOptions, source: HuggingFaceSource) -> Splits:
    """The images of a stream; loading reads only the beginning of the stream."""
    if source.kind == "hub" and options.revision and hub.is_here(options.path, options.revision):
        options = replace(
            options, path=str(hub.fetch_data_set(options.path, options.revision))
        )  # the downloaded copy has the same rows
        source = find_source(options)
    named = replace(options, path=str(source.base)) if source.kind == "folder" else options
    rows = StreamRows(named, source.kind, source.train.files)
    rows.check()
    stream = Stream(rows, rows.where, options.label is not None, options.caption is not None)
    size: dict[str, Any] = {
        "channels": options.channels, "resolution": options.resolution, "resize": options.resize,
    }  # fmt: skip
    assert options.count is not None
    buffer = options.shuffle_buffer or SHUFFLE_BUFFER
    train = StreamedImages(stream, skip=options.validation or 0, count=options.count, buffer=buffer, **size)
    if options.validation is not None:
        return Splits(train, HeadImages(stream, options.validation, **size))
    return Splits(train, _validation(options, source))


def _validation(options: HuggingFaceOptions, source: HuggingFaceSource) -> Images:
    """The images of validation_files, which are local and not streamed."""
    from zigma_bench.data.sources import huggingface

    return huggingface.load_validation(replace(options, streaming=False, count=None, shuffle_buffer=None), source)


@dataclass(frozen=True)
class StreamRows:
    """The rows of a source; calling the object with the number of a row reads the rows from there on.

    Earlier rows are read and discarded, because a stream can only be read from its beginning.
    """

    options: HuggingFaceOptions
    kind: str
    files: tuple[str, ...]

    @property
    def where(self) -> str:
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return self.files[0] + more if self.files else self.options.path

    def check(self) -> None:
        """Raise UsageError for a missing column, or one without images; reads the beginning of the first file."""
        from zigma_bench.data.sources.huggingface import check_column

        table = self._table()
        if table.column_names is None:
            raise NotReady("the stream does not list its columns", where=self.where, do="leave streaming out")
        check_column(table, self.options.image, self.where)
        if self.options.caption is not None:
            check_captions(table, self.options.caption, self.where)
        if self.options.label is not None and self.options.label not in table.column_names:
            raise UsageError(
                f"there is no column {self.options.label!r}", where=self.where,
                expected=f"one of {', '.join(sorted(table.column_names))}", do="set label to one of them",
            )  # fmt: skip

    def __call__(self, start: int, *, pictures: bool = True) -> Iterator[StreamRow]:
        for number, cells in enumerate(self.cells(start, pictures=pictures), start):
            yield self._row(cells, number)

    def cells(self, start: int, *, pictures: bool = True) -> Iterator[dict[str, Any]]:
        """The used columns of each row, not decoded; without `pictures`, the image column is left out."""
        import datasets

        o = self.options
        columns = [name for name in (o.image if pictures else None, o.label, o.caption) if name is not None]
        table = self._table(columns).select_columns(columns)
        if pictures and isinstance((table.features or {}).get(o.image), datasets.Image):
            table = table.cast_column(o.image, datasets.Image(decode=False))
        try:
            yield from table.skip(start)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            for file in self.files:
                check_reads(file)  # raises an error that names a broken local file
            raise NotReady(f"reading the stream failed ({type(error).__name__}: {error})", where=self.where) from error

    def _row(self, cells: dict[str, Any], number: int) -> StreamRow:
        o, data, where = self.options, b"", f"{self.where}, row {number}"
        if o.image in cells:
            data, where = encoded_image(cells[o.image], self.where, f"row {number}", NO_FILES)
        texts = None if o.caption is None else captions_of_cell(cells[o.caption], f"{where}, column {o.caption!r}")
        if o.label is None:
            return StreamRow(data, where, None, texts)
        label, classes = cells[o.label], o.classes
        assert classes is not None
        if type(label) is not int or not 0 <= label < classes:
            raise BadImage(
                "class label out of range", where=where, expected=f"0 to {classes - 1}", got=label,
                do="set classes to the number of classes",
            )  # fmt: skip
        return StreamRow(data, where, label, texts)

    def _table(self, columns: list[str] | None = None) -> Any:
        """The streamed table; of parquet files, only the `columns` are read."""
        import datasets

        o = self.options
        place: dict[str, Any] = {}
        if self.kind == "hub":
            place = {
                "revision": o.revision,
                "data_dir": o.data_dir,
                "data_files": list(split_list(o.data_files)) or None,
            }
        elif (kind := builder_kind(o, self.kind, self.files)) is not None:
            return self._local_table(kind, columns)
        elif o.data_files is not None:
            place = {"data_files": {"train": [glob.escape(file) for file in self.files]}}
        try:
            return datasets.load_dataset(o.path, o.name, split=o.split, streaming=True, **place)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            for file in self.files:
                check_opens(file)
            what = f"datasets can't stream the data ({type(error).__name__}: {error})"
            raise NotReady(what, where=self.where) from error

    def _local_table(self, kind: str, columns: list[str] | None) -> Any:
        """The streamed table of local files, which are passed by split, so that `datasets` doesn't interpret names."""
        import datasets

        from zigma_bench.data.sources.huggingface import builder_of

        o = self.options
        files = read_files(o, kind, self.files)
        splits = {"train": tuple(files)}
        if o.data_files is None:
            base = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
            requested = split_names(o.split)
            splits = dict(files_of_splits(files, base, requested, shards=True, where=str(base)))
        if o.split not in splits:
            raise UsageError(f"there is no split {o.split!r}", where=self.where, expected=f"one of {', '.join(splits)}")
        rest = {"columns": columns} if kind == "parquet" else {}
        try:
            return builder_of(kind, splits, **rest).as_streaming_dataset(split=o.split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            for file in self.files:
                check_opens(file)
            what = f"datasets can't stream the data ({type(error).__name__}: {error})"
            raise NotReady(what, where=self.where) from error
