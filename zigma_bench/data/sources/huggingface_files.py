"""The files that the options of `huggingface` select, checked and described before any is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zigma_bench.data.reading.files import (
    Listing,
    files_in_both,
    matching_files,
    missing_numbers,
    missing_shards,
    source_fingerprint,
    split_list,
    visible_files_below,
)
from zigma_bench.data.reading.folder import IMAGES, check_none_passed_over, folders_in
from zigma_bench.data.reading.splits import split_names
from zigma_bench.data.sources import hub
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.errors import NotReady, UsageError, nearest
from zigma_bench.plugins.registry import Condition, DataFacts, Missing

SUFFIXES = {  # of the files of each kind
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "webdataset": (".tar",),
    "imagefolder": IMAGES,
}
SHARDS = (".parquet", ".arrow", ".tar")
METADATA_FILES = ("/metadata.csv", "/metadata.jsonl", "/metadata.parquet")  # ends of paths
CONFIGS = b"\nconfigs:"  # the key of a README.md that assigns files to splits
METADATA = (".csv", ".jsonl", ".parquet")  # files with the captions of a folder of images
PART = r"[A-Za-z0-9_.-]+(\[[0-9%:-]*\](\([a-z0-9_]+\))?)?"  # such as train, or train[:90%]
SPLIT = re.compile(rf"{PART}(\+{PART})*")
NOTHING = Listing(())
SHUFFLE_BUFFER = 10_000  # images in the shuffle buffer of a stream


@dataclass(frozen=True)
class HuggingFaceSource:
    """The files of a data set. `kind` says how `datasets` opens them. The files of a Hub data set are unknown."""

    kind: Literal["builder", "folder", "hub"]
    base: Path
    train: Listing = NOTHING
    validation: Listing | None = None
    missing: tuple[Missing, ...] = ()


def describe(options: HuggingFaceOptions) -> DataFacts:
    """The facts of the images, from the names and contents of local files; the network is never used.

    Raises UsageError for contradictory options. A data set of the Hub counts as missing if HF_HUB_OFFLINE is set and
    the cache contains no complete copy; otherwise the run downloads it.
    """
    source = find_source(options)
    parts = {
        key: getattr(options, key)
        for key in ("split", "validation_split", "validation", "image", "resolution", "channels", "resize", "name")
    }
    parts["kind"] = options.path if source.kind == "builder" else source.kind
    parts["train"] = source.train.hashes()
    parts["held_out"] = source.validation.hashes() if source.validation else None
    if source.kind == "hub":
        parts["hub"] = [options.path, options.revision, options.data_dir]
        parts["hub_files"] = [split_list(options.data_files), split_list(options.validation_files)]
    conditions: tuple[Condition, ...] = ()
    if options.label is not None:
        assert options.classes is not None
        parts |= {"label": options.label, "classes": options.classes}
        conditions = (Condition("class", options.classes),)
    if options.caption is not None:
        parts["caption"] = options.caption
    if options.streaming:
        parts["stream"] = [options.count, options.shuffle_buffer or SHUFFLE_BUFFER]
    size, identity = options.resolution, source_fingerprint("huggingface", parts)
    facts = DataFacts(options.channels, size, size, identity, source.missing, options.validation, conditions)
    crops = options.resize != "none"
    return replace(facts, captions=options.caption is not None, crops=crops, streams=options.streaming)


def find_source(options: HuggingFaceOptions) -> HuggingFaceSource:
    """The source that the options name, with its missing files; UsageError for invalid options."""
    _check_validation(options)
    _check_split(options.split)
    _check_stream(options)
    if (options.label is None) != (options.classes is None):
        raise _options_error("label (a column) and classes (their number) need each other", "both, or neither")
    patterns = split_list(options.data_files)
    if options.path in SUFFIXES:
        if not patterns and options.data_dir is None:
            raise _options_error(f"{options.path} needs the names of its files", "data_files or data_dir")
        beside = METADATA if options.path == "imagefolder" and reads_metadata(options) else ()
        return _file_source(options, "builder", Path(options.data_dir or "."), SUFFIXES[options.path] + beside)
    folder = Path(options.path).expanduser()
    if folder.is_file():
        raise _options_error(
            f"{options.path!r} is a file",
            "a folder, owner/name or a kind of file",
            "set path to the kind of file, such as parquet, and data_files to the file",
        )
    if folder.is_dir() or not hub.NAME.fullmatch(options.path) or options.path.startswith("."):
        return _folder_source(options, folder)
    return _hub_source(options)


def require_source(source: HuggingFaceSource, where: str) -> None:
    """Raise NotReady if files of the source are missing."""
    if source.missing:
        raise NotReady("; ".join(f"{item.what} is missing: {item.do}" for item in source.missing), where=where)


def _folder_source(options: HuggingFaceOptions, folder: Path) -> HuggingFaceSource:
    if not folder.is_dir():
        if not options.path or ("/" not in options.path and not options.path.startswith((".", "~"))):
            known = ", ".join(SUFFIXES)
            error = _options_error(
                f"{options.path!r} is not a data set", f"{known}, a folder, or owner/name on the Hub"
            )
            error.nearest = nearest(options.path, SUFFIXES)
            raise error
        return HuggingFaceSource("folder", folder, missing=(_missing_folder(folder),))
    return _file_source(options, "folder", folder / (options.data_dir or ""), None)


def _hub_source(options: HuggingFaceOptions) -> HuggingFaceSource:
    base = Path(options.path)
    if options.revision is None:
        do = f"put a folder at {base.absolute()}, or, for a data set of the Hub, set revision to its commit"
        return HuggingFaceSource("hub", base, missing=(Missing(f"the data set {options.path}", do),))
    if not hub.COMMIT.fullmatch(options.revision):
        raise _options_error("a data set of the Hub needs its full commit as revision", "40 hex digits")
    if hub.hub_data_is_offline() and not hub.is_here(options.path, options.revision):
        missing = Missing(f"the data set {options.path} of the Hub", hub.how_to_get(options.path, options.revision))
        return HuggingFaceSource("hub", base, missing=(missing,))
    return HuggingFaceSource("hub", base)


def _file_source(
    options: HuggingFaceOptions, kind: Literal["builder", "folder"], base: Path, suffixes: tuple[str, ...] | None
) -> HuggingFaceSource:
    """A source of local files: those of data_files below `base`, or all files below `base`."""
    if not base.expanduser().is_dir():
        return HuggingFaceSource(kind, base, missing=(_missing_folder(base),))
    base = base.expanduser().absolute()
    patterns, held_out = split_list(options.data_files), split_list(options.validation_files)
    train = matching_files(patterns, base) if patterns else visible_files_below(base)
    validation = matching_files(held_out, base) if held_out else None
    if not _has_own_reader(options, kind, train):
        for listing in (train, validation or NOTHING):
            _check_all_are_read(options, kind, listing, named=bool(patterns))
    if suffixes is not None and not patterns:
        train = Listing(tuple(file for file in train.files if file.lower().endswith(suffixes)))
    missing = [_missing_file(file) for file in (*train.unmatched, *(validation.unmatched if validation else ()))]
    missing += [
        _missing_shard(file) for file in (*_absent_shards(train, patterns), *_absent_shards(validation, held_out))
    ]
    if not train.files and not missing:
        kinds = ", ".join(suffixes or ("data",))
        missing.append(Missing(f"the data in {base} (there is no {kinds} file)", "put the files there"))
    if validation and (both := files_in_both(train, validation)):
        raise _options_error(f"{both[0]} is a training and a validation file", "two sets without a common file")
    source = HuggingFaceSource(kind, base, train, validation, tuple(missing))
    _check_classes(options, source)
    return source


def reads_metadata(options: HuggingFaceOptions) -> bool:
    """Whether a folder of images is read with the metadata.csv, .jsonl or .parquet in it."""
    return options.caption is not None or options.label not in (None, "label")


def builder_kind(options: HuggingFaceOptions, kind: str, files: Sequence[str]) -> str | None:
    """The kind of local files, a key of SUFFIXES; None if `datasets` itself decides how to read the folder.

    Raises UsageError for a folder with files of two kinds.
    """
    if options.path in SUFFIXES:
        return options.path
    if _has_own_reader(options, kind, Listing(tuple(files))):
        return None
    data = [file for file in files if not file.endswith(METADATA_FILES)]
    found = {kind: next((f for f in data if f.lower().endswith(ends)), None) for kind, ends in SUFFIXES.items()}
    existing = {kind: file for kind, file in found.items() if file is not None}
    if len(existing) > 1:
        raise _options_error(
            f"{options.path!r} contains data of {len(existing)} kinds", "one kind", got=", ".join(existing.values()),
            do=f"set path to one of {', '.join(existing)}, and data_dir or data_files",
        )  # fmt: skip
    return next(iter(existing), None)


def read_files(options: HuggingFaceOptions, kind: str, files: Sequence[str]) -> list[str]:
    """The files that are read as data of the kind; shards in data_files may have any name."""
    named = kind != "imagefolder" and options.data_files is not None
    return [file for file in files if named or file.lower().endswith(SUFFIXES[kind])]


def _has_own_reader(options: HuggingFaceOptions, kind: str, listing: Listing) -> bool:
    """Whether a folder configures its own files: a data set of the Hub, or a folder with a README.md with `configs`."""
    if kind != "folder":
        return False
    if options.revision is not None or options.name is not None:
        return True
    notes = [file for file in listing.files if file.endswith("/README.md")]
    return any(CONFIGS in Path(file).read_bytes() for file in notes)


def _check_all_are_read(options: HuggingFaceOptions, kind: str, listing: Listing, *, named: bool) -> None:
    """Raise NotReady for a file that looks like data but would not be read."""
    found = builder_kind(options, kind, listing.files)
    if found == "imagefolder":
        images = [file for file in listing.files if not file.endswith(METADATA_FILES)]
        check_none_passed_over(images, SUFFIXES[found], "the reader of a folder of images")
    elif found is not None and not named:
        check_none_passed_over(listing.files, SUFFIXES[found], f"the reader of {found} files", shards=True)


def classes_of_folders(options: HuggingFaceOptions, source: HuggingFaceSource) -> list[str] | None:
    """The sorted names of the class folders, where a name's index is its class label; None if the classes don't come
    from folders."""
    if options.label != "label" or builder_kind(options, source.kind, source.train.files) != "imagefolder":
        return None
    if source.kind == "folder" and any(file.endswith(METADATA_FILES) for file in source.train.files):
        return None
    folders = {os.path.dirname(file) for file in source.train.files if file.lower().endswith(IMAGES)}
    return sorted({os.path.basename(folder) for folder in folders})


def _check_classes(options: HuggingFaceOptions, source: HuggingFaceSource) -> None:
    """Raise NotReady for a class folder without images, and if `classes` isn't the number of class folders."""
    names = classes_of_folders(options, source)
    if names is None or source.missing:
        return
    if not split_list(options.data_files):
        _check_no_empty_class(source)
    if len(names) != options.classes:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
        raise NotReady(
            f"there are images of {len(names):,} classes only" if len(names) < (options.classes or 0)
            else f"there are images of {len(names):,} classes", where=str(source.base),
            expected=f"{options.classes:,} class folders with images, the value of classes", got=shown,
            do=f"set classes to {len(names)}, or correct the folders",
        )  # fmt: skip


def _check_no_empty_class(source: HuggingFaceSource) -> None:
    """Raise NotReady for a folder without images next to the class folders."""
    folders = {os.path.dirname(file) for file in source.train.files if file.lower().endswith(IMAGES)}
    filled = {above for folder in folders for above in (folder, *map(str, Path(folder).parents))}
    for parent in sorted({os.path.dirname(folder) for folder in folders if folder != str(source.base)}):
        for folder in folders_in(Path(parent)):
            if str(folder) not in filled:
                raise NotReady(
                    "the class folder contains no image", where=str(folder), do="put images there, or remove it"
                )


def _missing_folder(folder: Path) -> Missing:
    return Missing(f"the folder {folder}", f"put the images at {folder.expanduser().absolute()}")


def _missing_file(file: str) -> Missing:
    return Missing(f"the data file {Path(file).name}", f"put it at {file}, or change the path")


def _absent_shards(listing: Listing | None, patterns: tuple[str, ...]) -> list[str]:
    """The missing shards, by the numbers in the names of the others; shards named exactly by a pattern don't count."""
    if listing is None:
        return []
    named = {os.path.basename(pattern) for pattern in patterns}
    files = [file for file in listing.files if os.path.basename(file) not in named]
    return [*missing_shards(files), *missing_numbers(file for file in files if file.lower().endswith(SHARDS))]


def _missing_shard(file: str) -> Missing:
    return Missing(f"the shard {Path(file).name}", f"put it at {file}, or list the shards to read in data_files")


def _check_validation(options: HuggingFaceOptions) -> None:
    names = ("validation_split", "validation_files", "validation")
    used = [name for name in names if getattr(options, name) is not None]
    if len(used) != 1:
        raise _options_error(
            "the validation images need one source", f"exactly one of {', '.join(names)}", got=" and ".join(used)
        )
    if options.validation_files is not None and options.data_files is None:
        raise _options_error("validation_files needs data_files", "both, or neither")
    if options.validation_split is not None:
        _check_split(options.validation_split)
        ours, theirs = _whole_splits(options.split), _whole_splits(options.validation_split)
        same = options.split == options.validation_split or ours & split_names(options.validation_split)
        if same or theirs & split_names(options.split):
            raise _options_error(
                "training and validation read the same split", "two splits without a common image", got=options.split
            )


def _check_stream(options: HuggingFaceOptions) -> None:
    if not options.streaming:
        if used := [name for name in ("count", "shuffle_buffer") if getattr(options, name) is not None]:
            raise _options_error(f"{used[0]} needs streaming", "streaming: true, or neither of the two")
        return
    if options.count is None:
        raise _options_error("a stream needs a number of training images", "the option count")
    if options.validation_split is not None:
        raise _options_error("a stream holds out its first images", "validation (their number) or validation_files")
    if options.path == "imagefolder":
        raise _options_error("a folder of images can't be streamed", "streaming with other data")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", options.split):
        raise _options_error("a part of a split can't be streamed", "the name of a split", got=options.split)


def _check_split(split: str) -> None:
    if not SPLIT.fullmatch(split):
        raise _options_error("invalid split", "a name, or a part of a split such as train[:90%]", got=split)


def _whole_splits(split: str) -> set[str]:
    """The splits that a text such as train+test[:50%] uses completely."""
    return {part for part in split.split("+") if "[" not in part}


def _options_error(what: str, expected: str, do: str | None = None, got: object = None) -> UsageError:
    return UsageError(what, where="data: huggingface", expected=expected, got=got or None, do=do)
