"""Images read with Hugging Face `datasets`, which never runs code of a data set here."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from zigma_bench.data import hub
from zigma_bench.data.captions import captions_in
from zigma_bench.data.check_files import check_opens, check_reads
from zigma_bench.data.encoded import DecodedImages, Rows
from zigma_bench.data.files import Listing, split_list
from zigma_bench.data.holdout import hold_out
from zigma_bench.data.options import HuggingFaceOptions
from zigma_bench.data.source import METADATA, SUFFIXES, Source, find, require
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.images import Images, Labels, Splits

PASSED_OVER, LINE = "no line of the metadata beside it names the image", "write one for each, or remove the image"
NAMES_NONE, NO_LINE = "a line of the metadata names an image that is not there", "put it there, or remove the line"
SPLIT_WORDS = ("train", "val", "dev", "test", "eval", "-of-", "task.toml", "instruction.md")


def load(options: HuggingFaceOptions) -> Splits:
    """The images of the options as uint8 [N, channels, resolution, resolution], decoded when they are first taken.

    NotReady if files are missing or can't be read as what they claim to be; UsageError for a split or column that isn't
    there, or fewer images than asked; BadImage, on taking, for a broken image. A Hub data set is downloaded here.
    """
    source = find(options)
    require(source, _label(options, source.train))
    if options.path == "webdataset":  # the end of one that is cut off between two images is like any other end
        for file in (*source.train.files, *(source.validation.files if source.validation else ())):
            check_opens(file)
    if options.streaming:
        from zigma_bench.data import streamed

        with quiet():
            return streamed.load(options, source)
    if source.kind == "hub":
        assert options.revision is not None
        options = replace(options, path=str(hub.fetch(options.path, options.revision)))
        source = find(options)
        require(source, options.path)
    with quiet():
        return _splits(options, source)


def _splits(options: HuggingFaceOptions, source: Source) -> Splits:
    builder = _builder(options, source, source.train, split_list(options.data_files))
    train = _images(options, source.train, builder, options.split)
    if options.validation is not None:
        return hold_out(train, options.validation, where=_label(options, source.train))
    if options.validation_split is not None:
        _check_names(builder, options.validation_split, _label(options, source.train))
        _check_apart(builder, options.split, options.validation_split)
        return Splits(train, _images(options, source.train, builder, options.validation_split))
    return Splits(train, load_validation(options, source))


def load_validation(options: HuggingFaceOptions, source: Source) -> Images:
    """The images of validation_files."""
    assert source.validation is not None
    other = _builder(options, source, source.validation, split_list(options.validation_files))
    return _images(options, source.validation, other, "train")


def builders(options: HuggingFaceOptions, source: Source) -> Iterator[tuple[Any, Listing]]:
    """The `datasets` builder of each set of files, with the files."""
    yield _builder(options, source, source.train, split_list(options.data_files)), source.train
    if source.validation is not None:
        yield _builder(options, source, source.validation, split_list(options.validation_files)), source.validation


def _builder(options: HuggingFaceOptions, source: Source, listing: Listing, patterns: tuple[str, ...]) -> Any:
    """The `datasets` builder of the listed files, its cache filled."""
    import datasets

    where = _label(options, listing)
    place: dict[str, Any] = {"data_dir": str(source.base)}
    if patterns:
        place = {"data_files": {"train": [_literal(source, pattern) for pattern in patterns]}}
    elif options.path == "imagefolder" and not _may_have_splits(source):
        suffixes = {os.path.splitext(file)[1] for file in source.train.files}
        kind_of_file = (
            f"/*{next(iter(suffixes))}" if len(suffixes) == 1 else ""
        )  # a note beside the images is no matter
        place = {"data_files": {"train": [f"{glob.escape(str(source.base))}/**{kind_of_file}"]}}
    if options.path == "imagefolder":
        place |= {"drop_labels": options.label is None, "drop_metadata": options.caption is None}
    kind = options.path if source.kind == "builder" else str(source.base)
    if source.kind == "folder" and "data_dir" in place:
        place = {}
    try:
        builder = datasets.load_dataset_builder(kind, options.name, **place)
        _check_files(options, builder, listing, where)
        builder.download_and_prepare()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        for file in listing.files:
            check_reads(file)  # names the file that is broken, which `datasets` does not
        raise NotReady(f"datasets can't read it: {_root(error)}", where=where) from error
    return builder


def _may_have_splits(source: Source) -> bool:
    """Whether `datasets` may find splits in the names of files; it looks for each of its words in all of them, which
    takes minutes for 100,000 images, and where it finds none it reads all as `train`."""
    names = (os.path.relpath(file, source.base).lower() for file in source.train.files)
    return any(word in name for name in names for word in SPLIT_WORDS)


def _literal(source: Source, pattern: str) -> str:
    """A pattern as an absolute one, special characters in the folder above it taken literally."""
    full = os.path.normpath(os.path.join(source.base, os.path.expanduser(pattern)))
    return glob.escape(full) if os.path.isfile(full) else full


def _root(error: BaseException) -> str:
    """The innermost reason: `datasets` wraps it in general words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _check_files(options: HuggingFaceOptions, builder: Any, listing: Listing, where: str) -> None:
    """`datasets` must read the files that the plan's fingerprint holds, all of them and no others."""
    files = {os.path.realpath(str(file)) for files in builder.config.data_files.values() for file in files}
    if unknown := files - {os.path.realpath(file) for file in listing.files}:
        raise UsageError(
            "datasets would read a file that the plan doesn't know", where=where, got=sorted(unknown)[0],
            do="name the files with data_files",
        )  # fmt: skip
    suffixes = SUFFIXES.get(options.path, ()) if options.data_files else ()  # in a folder, splits may leave files out
    for file in listing.files:
        if file.lower().endswith(suffixes) and suffixes and os.path.realpath(file) not in files:
            raise UsageError("datasets passes over a file", where=where, got=file, do="rename it, or don't name it")


def _images(options: HuggingFaceOptions, listing: Listing, builder: Any, split: str) -> Images:
    """The images of one split, encoded as they lie there."""
    import datasets

    where = _label(options, listing)
    _check_names(builder, split, where)
    _check_metadata(builder, listing)
    table = builder.as_dataset(split=split)
    check_column(table, options.image, where)
    classes = _classes(options, table, where)
    texts = None if options.caption is None else captions_in(table, options.caption, f"{where}, split {split!r}")
    table = table.select_columns([options.image]).cast_column(options.image, datasets.Image(decode=False))
    if len(table) == 0:
        raise UsageError(f"the split {split!r} has no images", where=where)
    rows = Rows(table.with_format("arrow"), options.image, f"{where}, split {split!r}", frozenset(listing.files))
    return DecodedImages(rows, options.channels, options.resolution, options.resize, classes, texts)


def unlike_metadata(builder: Any, listing: Listing) -> tuple[list[str], list[str]]:
    """The images of a folder that its metadata passes over, which `datasets` leaves out without a word, and the images
    that it names and that are not there."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    if not isinstance(builder, ImageFolder) or not any(file.lower().endswith(METADATA) for file in listing.files):
        return [], []
    pictures = {os.path.realpath(file) for file in listing.files if file.lower().endswith(SUFFIXES["imagefolder"])}
    named: set[str] = set()
    for split in builder.info.splits:
        table = builder.as_dataset(split=split).with_format("arrow")
        named |= {os.path.realpath(path) for path in table[:]["image"].combine_chunks().field("path").to_pylist()}
    return sorted(pictures - named), sorted(named - pictures)


def _check_metadata(builder: Any, listing: Listing) -> None:
    for files, what, do in zip(
        unlike_metadata(builder, listing), (PASSED_OVER, NAMES_NONE), (LINE, NO_LINE), strict=True
    ):
        if files:
            shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
            raise NotReady(what, where=shown, do=do)


def _classes(options: HuggingFaceOptions, table: Any, where: str) -> Labels | None:
    """The class of every row, if the options name their column."""
    if options.label is None:
        return None
    assert options.classes is not None
    if options.label not in table.column_names:
        raise UsageError(
            f"there is no column {options.label!r}", where=where,
            expected=f"one of {', '.join(sorted(table.column_names))}", do="set label to one",
        )  # fmt: skip
    values = np.asarray(table.with_format("numpy")[:][options.label])
    if values.dtype.kind not in "iu" or values.shape != (len(table),):
        raise UsageError(
            f"the column {options.label!r} holds no classes", where=where, expected="a whole number in each row",
            got=f"{values.dtype} {list(values.shape)}",
        )  # fmt: skip
    if len(values) and not 0 <= values.min() <= values.max() < options.classes:
        row = int(np.flatnonzero((values < 0) | (values >= options.classes))[0])
        raise UsageError(
            f"the class of row {row} is none", where=f"{where}, column {options.label!r}",
            expected=f"0 to {options.classes - 1}", got=int(values[row]), do="set classes to their number",
        )  # fmt: skip
    return values.astype(np.int64)


def _check_names(builder: Any, split: str, where: str) -> None:
    """UsageError for a split that the files don't give."""
    known = sorted(builder.info.splits)
    for name in (part.partition("[")[0] for part in split.split("+")):
        if name not in known:
            raise UsageError(f"there is no split {name!r}", where=where, expected=f"one of {', '.join(known)}")


def check_column(table: Any, column: str, where: str) -> None:
    """The column must hold encoded images: the feature Image, {bytes, path}, or bytes."""
    import datasets

    names = sorted(table.column_names)
    if column not in names:
        raise UsageError(
            f"there is no column {column!r}", where=where, expected=f"one of {', '.join(names)}", do="set image to one"
        )
    feature = table.features[column]
    plain = isinstance(feature, dict) and sorted(feature) == ["bytes", "path"]
    if not (plain or isinstance(feature, datasets.Image) or feature == datasets.Value("binary")):
        raise UsageError(f"the column {column!r} holds no images", where=where, expected="images", got=str(feature))


def _check_apart(builder: Any, train: str, validation: str) -> None:
    """UsageError if two texts of splits, such as train[:90%] and train[80%:], have a row in common."""
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


def _label(options: HuggingFaceOptions, listing: Listing) -> str:
    """The data as an error names them."""
    if not listing.files:
        return options.path
    more = f" and {len(listing.files) - 1} more" if len(listing.files) > 1 else ""
    return listing.files[0] + more


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of `datasets` within; its settings are put back after."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
