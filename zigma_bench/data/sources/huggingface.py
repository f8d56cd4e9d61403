"""Images read with Hugging Face `datasets`; code of a data set is never run."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from zigma_bench.conditioning.captions import captions_in
from zigma_bench.data.checks.files import check_opens, check_reads
from zigma_bench.data.images import Images, Labels, Splits
from zigma_bench.data.latents.encoded import DecodedImages, Rows
from zigma_bench.data.reading.counts import images_in
from zigma_bench.data.reading.files import Listing, split_list
from zigma_bench.data.reading.folder import unreadable_entry
from zigma_bench.data.reading.holdout import hold_out
from zigma_bench.data.reading.splits import files_of_splits, split_names
from zigma_bench.data.sources import hub
from zigma_bench.data.sources.huggingface_files import (
    METADATA_FILES,
    SUFFIXES,
    HuggingFaceSource,
    builder_kind,
    find_source,
    read_files,
    reads_metadata,
    require_source,
)
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import NotReady, UsageError, names_near

UNLISTED, LINE = (
    "no line of the metadata in its folder names the image",
    "add a line for each image, or remove the image",
)
BINARY = ("binary", "large_binary", "fixed_size_binary")  # prefixes of Arrow types, such as binary_view
NO_IMAGE, NO_LINE = "a line of the metadata names a missing image", "add the image, or remove the line"


def load(options: HuggingFaceOptions) -> Splits:
    """The images as uint8 [N, channels, resolution, resolution], decoded when they are read; downloads from the Hub.

    Raises NotReady for missing or invalid files, and UsageError for a missing split or column, or too few images.
    Reading a broken image raises BadImage.
    """
    source = find_source(options)
    require_source(source, _source_label(options, source.train))
    if options.path == "webdataset":  # readers don't notice if a shard is truncated between two images
        for file in (*source.train.files, *(source.validation.files if source.validation else ())):
            check_opens(file)
    if options.streaming:
        from zigma_bench.data.sources import huggingface_stream as streamed

        with quiet_datasets():
            return streamed.load(options, source)
    if source.kind == "hub":
        assert options.revision is not None
        options = replace(options, path=str(hub.fetch_data_set(options.path, options.revision)))
        source = find_source(options)
        require_source(source, options.path)
    with quiet_datasets():
        return _load_splits(options, source)


def _load_splits(options: HuggingFaceOptions, source: HuggingFaceSource) -> Splits:
    builder = _make_builder(options, source, source.train, split_list(options.data_files))
    train = _split_images(options, source.train, builder, options.split)
    if options.validation is not None:
        return hold_out(train, options.validation, where=_source_label(options, source.train))
    if options.validation_split is not None:
        _check_names(builder, options.validation_split, _source_label(options, source.train))
        _check_apart(builder, options.split, options.validation_split)
        return Splits(train, _split_images(options, source.train, builder, options.validation_split))
    return Splits(train, load_validation(options, source))


def load_validation(options: HuggingFaceOptions, source: HuggingFaceSource) -> Images:
    """The images of validation_files."""
    assert source.validation is not None
    other = _make_builder(options, source, source.validation, split_list(options.validation_files))
    return _split_images(options, source.validation, other, "train")


def dataset_builders(options: HuggingFaceOptions, source: HuggingFaceSource) -> Iterator[tuple[Any, Listing]]:
    """The `datasets` builder of each set of files, with the files."""
    yield _make_builder(options, source, source.train, split_list(options.data_files)), source.train
    if source.validation is not None:
        yield _make_builder(options, source, source.validation, split_list(options.validation_files)), source.validation


def _make_builder(
    options: HuggingFaceOptions, source: HuggingFaceSource, listing: Listing, patterns: tuple[str, ...]
) -> Any:
    """The `datasets` builder of the listed files, with all of their images in its cache."""
    import datasets

    where = _source_label(options, listing)
    try:
        builder = open_builder(options, source, listing, patterns)
        builder.download_and_prepare()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        for file in listing.files:
            check_reads(file)  # raises an error that names the broken file, unlike `datasets`
        raise NotReady(f"datasets can't read the files: {_innermost_text(error)}", where=where) from error
    _check_number(builder, options, source, listing)
    return builder


def open_builder(
    options: HuggingFaceOptions, source: HuggingFaceSource, listing: Listing, patterns: tuple[str, ...]
) -> Any:
    """The `datasets` builder of the listed files.

    It gets their names and splits, so that it doesn't derive them from the folder. Only if a folder has its own
    configuration, as a data set of the Hub does, `datasets` finds the files itself.
    """
    kind = builder_kind(options, source.kind, listing.files)
    if kind is None:
        return _own_builder(options, source, listing, patterns)
    images = read_files(options, kind, listing.files)
    splits = _splits_of(options, source, images, kind, patterns)
    rest: dict[str, Any] = {}
    if kind == "imagefolder":
        metadata = [file for file in listing.files if file.endswith(METADATA_FILES)]
        metadata = metadata if source.kind == "folder" or reads_metadata(options) else []
        splits = _with_metadata(splits, metadata, source)
        rest = {"drop_labels": options.label is None, "drop_metadata": not metadata}
    return builder_of(kind, splits, **rest)


def builder_of(kind: str, splits: dict[str, tuple[str, ...]], **rest: Any) -> Any:
    """The `datasets` builder of files of one kind, by split."""
    return _class_of(kind)(dataset_name=kind, data_files=_data_files(splits), hash=datasets_version(), **rest)


def _splits_of(
    options: HuggingFaceOptions, source: HuggingFaceSource, files: list[str], kind: str, patterns: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """The files by split; files that the options name all belong to `train`."""
    if patterns or not files:
        return {"train": tuple(files)}
    requested = split_names(options.split, options.validation_split)
    base = str(source.base)
    return dict(files_of_splits(files, source.base, requested, shards=kind != "imagefolder", where=base))


def _with_metadata(
    splits: dict[str, tuple[str, ...]], metadata: list[str], source: HuggingFaceSource
) -> dict[str, tuple[str, ...]]:
    """The files of each split, with the metadata files in the folders of its images."""
    if len(splits) == 1:
        return {split: (*files, *metadata) for split, files in splits.items()}
    found = {split: list(files) for split, files in splits.items()}
    for file in metadata:
        folder = os.path.dirname(file) + os.sep
        owners = [split for split, files in splits.items() if any(image.startswith(folder) for image in files)]
        if len(owners) != 1:
            raise UsageError(
                "the metadata belongs to no split, or to several",
                where=file,
                do="write one in the folder of each split",
            )
        found[owners[0]].append(file)
    return {split: tuple(files) for split, files in found.items()}


def _class_of(kind: str) -> Any:
    from datasets.packaged_modules.arrow.arrow import Arrow
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    return {"arrow": Arrow, "imagefolder": ImageFolder, "parquet": Parquet, "webdataset": WebDataset}[kind]


def _data_files(splits: dict[str, tuple[str, ...]]) -> Any:
    """The files for `datasets`, with their states, so that it uses another cache if a file has changed."""
    from datasets.data_files import DataFilesDict, DataFilesList

    found = {}
    for split, files in splits.items():
        if chained := next((file for file in files if "::" in file), None):
            raise UsageError("datasets interprets '::' in a path as an archive", where=chained, do="rename it")
        found[split] = DataFilesList(list(files), [_file_state(file) for file in files])
    return DataFilesDict(found)


def _file_state(file: str) -> tuple[str, ...]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise unreadable_entry(file, error) from None
    return tuple(str(item) for item in (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))


def datasets_version() -> str:
    """The version of `datasets`, because other versions must not read its caches."""
    import datasets

    return str(datasets.__version__)


def _own_builder(
    options: HuggingFaceOptions, source: HuggingFaceSource, listing: Listing, patterns: tuple[str, ...]
) -> Any:
    """The builder of a folder in which `datasets` finds the files itself; UsageError if it finds a file that the plan
    didn't list."""
    import datasets

    place = {"data_files": {"train": [glob.escape(file) for file in listing.files]}} if patterns else {}
    builder = datasets.load_dataset_builder(str(source.base), options.name, **place)
    found = {os.path.realpath(str(file)) for files in builder.config.data_files.values() for file in files}
    if unknown := found - {os.path.realpath(file) for file in listing.files}:
        raise UsageError(
            "datasets would read a file that the plan did not list", where=_source_label(options, listing),
            got=sorted(unknown)[0], do="name the files with data_files",
        )  # fmt: skip
    return builder


def _check_number(builder: Any, options: HuggingFaceOptions, source: HuggingFaceSource, listing: Listing) -> None:
    """Raise NotReady if the builder returns another number of images than the files contain."""
    kind = builder_kind(options, source.kind, listing.files)
    if kind is None or (kind == "imagefolder" and not builder.config.drop_metadata):
        return  # `_check_metadata` compares the images with the metadata
    expected = sum(images_in(file, kind) for file in read_files(options, kind, listing.files))
    got = sum(info.num_examples for info in builder.info.splits.values())
    if got != expected:
        raise NotReady(
            "datasets doesn't read all images of the files", where=_source_label(options, listing),
            expected=str(expected), got=got, do="name the files with data_files, or write them as parquet",
        )  # fmt: skip


def _innermost_text(error: BaseException) -> str:
    """The text of the innermost error, because the outer errors of `datasets` are unspecific."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _split_images(options: HuggingFaceOptions, listing: Listing, builder: Any, split: str) -> Images:
    """The images of one split, which are decoded when they are read."""
    where = _source_label(options, listing)
    _check_names(builder, split, where)
    table = builder.as_dataset(split=split)
    check_column(table, options.image, where)
    _check_metadata(builder, listing, options.image)
    classes = _read_classes(options, table, where)
    texts = None if options.caption is None else captions_in(table, options.caption, f"{where}, split {split!r}")
    table = table.select_columns([options.image])
    if len(table) == 0:
        raise UsageError(f"the split {split!r} has no images", where=where)
    rows = Rows(table.with_format("arrow"), options.image, f"{where}, split {split!r}", frozenset(listing.files))
    return DecodedImages(rows, options.channels, options.resolution, options.resize, classes, texts)


def metadata_mismatches(builder: Any, listing: Listing, column: str) -> tuple[list[str], list[str]]:
    """The images that the metadata of their folder doesn't list, which `datasets` skips silently, and the missing
    images that it lists."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    if not isinstance(builder, ImageFolder) or builder.config.drop_metadata:
        return [], []
    if not any(file.endswith(METADATA_FILES) for file in listing.files):
        return [], []
    pictures = {os.path.realpath(file) for file in listing.files if file.lower().endswith(SUFFIXES["imagefolder"])}
    named: set[str] = set()
    for split in builder.info.splits:
        table = builder.as_dataset(split=split).with_format("arrow")
        named |= {os.path.realpath(cell["path"]) for cell in table[:][column].to_pylist()}
    return sorted(pictures - named), sorted(named - pictures)


def _check_metadata(builder: Any, listing: Listing, column: str) -> None:
    for files, what, do in zip(
        metadata_mismatches(builder, listing, column), (UNLISTED, NO_IMAGE), (LINE, NO_LINE), strict=True
    ):
        if files:
            shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
            raise NotReady(what, where=shown, do=do)


def _read_classes(options: HuggingFaceOptions, table: Any, where: str) -> Labels | None:
    """The classes of all rows, or None if the options name no label column; UsageError for an invalid class."""
    if options.label is None:
        return None
    assert options.classes is not None
    if options.label not in table.column_names:
        raise UsageError(
            f"there is no column {options.label!r}", where=where,
            expected=f"one of {', '.join(sorted(table.column_names))}", do="set label to one of them",
        )  # fmt: skip
    values = np.asarray(table.with_format("numpy")[:][options.label])
    if values.dtype.kind not in "iu" or values.shape != (len(table),):
        raise UsageError(
            f"the column {options.label!r} contains no class labels", where=where, expected="an integer in each row",
            got=f"{values.dtype} {list(values.shape)}",
        )  # fmt: skip
    if len(values) and not 0 <= values.min() <= values.max() < options.classes:
        row = int(np.flatnonzero((values < 0) | (values >= options.classes))[0])
        raise UsageError(
            f"the class label of row {row} is out of range", where=f"{where}, column {options.label!r}",
            expected=f"0 to {options.classes - 1}", got=int(values[row]), do="set classes to the number of classes",
        )  # fmt: skip
    return values.astype(np.int64)


def _check_names(builder: Any, split: str, where: str) -> None:
    """Raise UsageError for a split that the files don't have."""
    known = sorted(builder.info.splits)
    for name in (part.partition("[")[0] for part in split.split("+")):
        if name not in known:
            raise UsageError(f"there is no split {name!r}", where=where, expected=f"one of {', '.join(known)}")


def check_column(table: Any, column: str, where: str) -> None:
    """Raise UsageError unless the column contains encoded images: the feature Image, {bytes, path}, or bytes."""
    import datasets

    names = sorted(table.column_names)
    if column not in names:
        raise UsageError(
            f"there is no column {column!r}", where=where, expected=f"one of {names_near(column, names)}",
            do="set image to one of them",
        )  # fmt: skip
    feature = table.features[column]
    if isinstance(feature, dict) and set(feature) <= {"bytes", "path"}:
        feature = feature.get("bytes")
    binary = isinstance(feature, datasets.Value) and feature.dtype.startswith(BINARY)
    if not (binary or isinstance(feature, datasets.Image)):
        raise UsageError(
            f"the column {column!r} contains no images", where=where, expected="images, or their encoded bytes",
            got=str(table.features[column]),
        )  # fmt: skip


def _check_apart(builder: Any, train: str, validation: str) -> None:
    """Raise UsageError if two splits, such as train[:90%] and train[80%:], share a row."""
    import datasets

    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    ours, theirs = (datasets.ReadInstruction.from_spec(text).to_absolute(sizes) for text in (train, validation))
    for one in ours:
        for other in theirs:
            start, stop = max(one.from_, other.from_), min(one.to, other.to)
            if one.splitname == other.splitname and start < stop:
                raise UsageError(
                    f"split {train!r} and validation_split {validation!r} share {stop - start} rows",
                    where="data: huggingface", expected="two splits without a common row",
                )  # fmt: skip


def _source_label(options: HuggingFaceOptions, listing: Listing) -> str:
    """The name of the data in errors: its first file and the number of the others."""
    if not listing.files:
        return options.path
    more = f" and {len(listing.files) - 1} more" if len(listing.files) > 1 else ""
    return listing.files[0] + more


@contextlib.contextmanager
def quiet_datasets() -> Iterator[None]:
    """A context without the progress bars of `datasets`."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
