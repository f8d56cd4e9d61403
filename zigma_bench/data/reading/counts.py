"""The numbers of images and classes of a data set, for reports and to find missing classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zigma_bench.data.images import Counts, Labels, Splits, has_order, labels_of
from zigma_bench.data.reading.files import Listing, split_list
from zigma_bench.data.reading.splits import files_of_splits, split_names
from zigma_bench.data.sources import huggingface_files as sources
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import Spec, load_target

AGAIN = "get the file again"


def images_in(file: str, kind: str) -> int:
    """The number of images in a file of a kind in SUFFIXES, without reading images; NotReady for a broken file."""
    if kind == "imagefolder":
        return 1
    if kind == "webdataset":
        from zigma_bench.data.reading.tar import count_samples

        return count_samples(file)
    return _rows_of_table(file, kind)


def _rows_of_table(file: str, kind: str) -> int:
    """The number of rows of a parquet or Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if kind == "parquet":
            return int(pq.read_metadata(file).num_rows)
        with pa.memory_map(file) as opened:
            try:
                table = pa.ipc.open_file(opened)
                return sum(table.get_batch(index).num_rows for index in range(table.num_record_batches))
            except pa.ArrowInvalid:  # an Arrow stream, which has no footer
                opened.seek(0)
                return sum(batch.num_rows for batch in pa.ipc.open_stream(opened))
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotReady(f"the {kind} file can't be opened ({reason})", where=file, do=AGAIN) from error


def counts_of(spec: Spec, options: Any) -> Counts:
    """The numbers of images of a registered data set with these options; no image is decoded."""
    if spec.facts.count is None:
        return Counts(None, spec.facts.describe(options).held_out)
    found: Counts = load_target(spec.facts.count)(options)
    complete = found.train is None or found.train >= 0  # files of the data set may be missing
    return found if complete else replace(found, train=None)


def count_huggingface(options: HuggingFaceOptions) -> Counts:
    """The numbers of images in local files; for a data set that is downloaded later, those of training are unknown."""
    source = sources.find_source(options)
    kind = sources.builder_kind(options, source.kind, source.train.files) if not source.missing else None
    if options.streaming:
        held = options.validation if source.validation is None else _count_images(options, source.validation, kind)
        return Counts(options.count, held)
    if kind is None:
        return Counts(None, options.validation)
    sizes = _sizes_of_splits(options, source, kind)
    train, classes = _split_size(options.split, sizes), sources.classes_of_folders(options, source)
    found = _classes_of_tables(options, source.train, kind) if classes is None else len(classes)
    if train is None:
        return Counts(None, options.validation, found)
    if options.validation is not None:
        return Counts(train - options.validation, options.validation, found)
    if source.validation is not None:
        return Counts(train, _count_images(options, source.validation, kind), found)
    assert options.validation_split is not None, "the options name exactly one source of validation images"
    return Counts(train, _split_size(options.validation_split, sizes), found)


def _sizes_of_splits(options: HuggingFaceOptions, source: sources.HuggingFaceSource, kind: str) -> dict[str, int]:
    """The number of images of each split."""
    files = sources.read_files(options, kind, source.train.files)
    requested = split_names(options.split, options.validation_split)
    named = {"train": files} if split_list(options.data_files) else None
    splits: Mapping[str, Any] = named or files_of_splits(
        files, source.base, requested, shards=kind != "imagefolder", where=str(source.base)
    )
    return {split: sum(images_in(file, kind) for file in members) for split, members in splits.items()}


def _classes_of_tables(options: HuggingFaceOptions, listing: Listing, kind: str) -> int | None:
    """The number of classes in the label column of parquet files; None without a label column. Other columns are not
    read."""
    if options.label is None or kind != "parquet":
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: set[Any] = set()
    for file in listing.files:
        try:
            if options.label in pq.read_schema(file).names:  # loading reports a missing column
                found |= set(pq.read_table(file, columns=[options.label])[options.label].unique().to_pylist())
        except (OSError, pa.ArrowException, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise NotReady(f"the classes can't be read ({reason})", where=file, do=AGAIN) from error
    return len(found - {None})


def _count_images(options: HuggingFaceOptions, listing: Listing, kind: str | None) -> int | None:
    if kind is None:
        return None
    files = sources.read_files(options, kind, listing.files)
    return sum(images_in(file, kind) for file in files)


def _split_size(text: str, sizes: Mapping[str, int]) -> int | None:
    """The number of images of a split such as `train[:90%]+test`; None for a missing split, which loading reports."""
    if not split_names(text) <= set(sizes):
        return None
    if "[" not in text:
        return sum(sizes[name] for name in text.split("+"))
    from datasets import ReadInstruction  # a slow import, which only parts of splits need

    return sum(int(part.to - part.from_) for part in ReadInstruction.from_spec(text).to_absolute(dict(sizes)))


def facts_of_images(splits: Splits, classes: int | None) -> dict[str, Any]:
    """The facts on the images for a record; NotReady if one of the `classes` has no training image.

    For a stream, the number of images is that of the suite, and classes are not counted, because they are only known
    after reading all images.
    """
    facts: dict[str, Any] = {"train_images_available": len(splits.train), "validation_images": len(splits.validation)}
    if classes is not None and not has_order(splits.train):
        labels = labels_of(splits.train, range(len(splits.train)))
        if (problem := missing_classes(labels, classes)) is not None:
            raise problem
        facts["classes_found"] = len(np.unique(labels))
    return facts


def missing_classes(labels: Labels, classes: int) -> NotReady | None:
    """The error for classes, numbered from 0, without a training image; None if every class has one."""
    absent = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
    if not absent:
        return None
    shown = ", ".join(map(str, absent[:10])) + (f" and {len(absent) - 10:,} more" if len(absent) > 10 else "")
    return NotReady(
        f"{len(absent):,} of the {classes:,} classes have no training image", where="the data's classes",
        expected="an image of every class", got=f"no image of class {shown}",
        do="lower classes, add images, or hold out fewer",
    )  # fmt: skip
