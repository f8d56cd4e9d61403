"""The split of each file of a local folder, by one rule for all kinds of files.

A folder has splits if every file is below a folder that is named after a split (train/, images/val/, test2017/), or if
every shard is named after one (train-00000-of-00003.parquet). The names matter only if the options name another split
than `train`. Otherwise all files belong to `train`, and a folder with two splits is an error, because one of them would
silently be trained on or skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zigma_bench.errors import UsageError

WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
BETWEEN = re.compile(r"[-._ 0-9]+")
OF_TOTAL = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}")
ALL = "train"  # the split of files without splits

Splits = Mapping[str, tuple[str, ...]]


def split_names(*texts: str | None) -> set[str]:
    """The names of the splits in texts such as `train[:10%]+test`."""
    return {part.partition("[")[0] for text in texts if text is not None for part in text.split("+")}


def files_of_splits(files: Sequence[str], base: Path, requested: set[str], *, shards: bool, where: str) -> Splits:
    """The files below `base` by split; `requested` is the splits that the options name.

    Raises UsageError, naming the files, if they belong to splits that the options don't name, or if a file belongs to
    no split although the options name several.
    """
    above = os.path.join(base, "")
    names = [file[len(above) :] if file.startswith(above) else os.path.relpath(file, base) for file in files]
    strict = [_split_of(name, requested, shards=shards) for name in names]
    loose = strict if None not in strict else [_word_in(name, requested) for name in names]
    if requested <= {ALL}:
        for found in (strict, loose if None not in loose else []):
            if len(set(found) - {None}) > 1:
                raise _unmentioned_splits_error(names, found, where)
        return {ALL: tuple(files)}
    if set(loose) == {None}:  # no file has a requested split: loading reports the splits that exist
        return {ALL: tuple(files)}
    if None in loose:
        raise UsageError(
            "the file belongs to no split", where=os.path.join(base, names[loose.index(None)]),
            expected=f"a folder named after its split, since the options name {', '.join(sorted(requested))}",
            do="move it into such a folder, or use only the split train, with the option validation",
        )  # fmt: skip
    by_split: dict[str, list[str]] = {}
    for file, split in zip(files, loose, strict=True):
        assert split is not None, file
        by_split.setdefault(split, []).append(file)
    return {split: tuple(found) for split, found in by_split.items()}


def _split_of(name: str, requested: set[str], *, shards: bool) -> str | None:
    """The split of a file by the complete name of a folder, or by the beginning of a shard's name."""
    *folders, file = name.split(os.sep)
    for folder in folders:
        if (word := _known_split(folder.lower().rstrip("0123456789"), requested)) or (
            word := _known_split(folder, requested)
        ):
            return word
    if not shards:
        return None
    if found := OF_TOTAL.match(file):
        return _known_split(found["split"].lower(), requested)
    return _known_split(next(iter(BETWEEN.split(file.lower()))), requested)


def _word_in(name: str, requested: set[str]) -> str | None:
    """The split of a file by any word of its path, as in my-train/1.png or val_0001.png."""
    words = (word for part in name.split(os.sep) for word in BETWEEN.split(part.lower()))
    return next((split for word in words if (split := _known_split(word, requested))), None)


def _known_split(word: str, requested: set[str]) -> str | None:
    return word if word in requested else WORDS.get(word)


def _unmentioned_splits_error(names: Iterable[str], splits: Sequence[str | None], where: str) -> UsageError:
    """The error for a folder with several splits when the options name only `train`."""
    examples = {split: name for name, split in reversed(list(zip(names, splits, strict=True))) if split is not None}
    shown = "; ".join(f"{split}: {examples[split]}" for split in sorted(examples))
    return UsageError(
        f"its folders and files are named after the splits {' and '.join(sorted(examples))}", where=where,
        expected="one split, or options that select splits", got=shown,
        do="set validation_split, combine splits as in split: train+test, or set data_dir or data_files to one split",
    )  # fmt: skip
