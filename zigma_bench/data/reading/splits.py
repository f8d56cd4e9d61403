"""Which split each file of a local folder belongs to, by one rule for all kinds of files.

A folder has splits where every file lies below a folder that is named after one (train/, images/val/, test2017/), or,
of shards, has such a name itself (train-00000-of-00003.parquet). Names are read so only where the options ask for
another split than `train`; otherwise all files are read as `train`, and a folder with two splits is refused, because
one of them would be trained on, or left out, without a word.
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
    """The splits that texts such as `train[:10%]+test` take images from."""
    return {part.partition("[")[0] for text in texts if text is not None for part in text.split("+")}


def files_of_splits(files: Sequence[str], base: Path, asked: set[str], *, shards: bool, where: str) -> Splits:
    """The files below `base` by split, where the options ask for the splits `asked`.

    UsageError, which names the folders or files, where names are those of splits that the options do not mention, and
    where a file belongs to no split although the options ask for several.
    """
    above = os.path.join(base, "")
    names = [file[len(above) :] if file.startswith(above) else os.path.relpath(file, base) for file in files]
    strict = [_split_of(name, asked, shards=shards) for name in names]
    loose = strict if None not in strict else [_word_in(name, asked) for name in names]
    if asked <= {ALL}:
        for found in (strict, loose if None not in loose else []):
            if len(set(found) - {None}) > 1:
                raise _unmentioned(names, found, where)
        return {ALL: tuple(files)}
    if set(loose) == {None}:  # none that the options ask for: the error names those that there are
        return {ALL: tuple(files)}
    if None in loose:
        raise UsageError(
            "the file belongs to no split", where=os.path.join(base, names[loose.index(None)]),
            expected=f"a folder named after its split, since the options ask for {', '.join(sorted(asked))}",
            do="move it into one, or ask for train alone with validation",
        )  # fmt: skip
    by_split: dict[str, list[str]] = {}
    for file, split in zip(files, loose, strict=True):
        assert split is not None, file
        by_split.setdefault(split, []).append(file)
    return {split: tuple(found) for split, found in by_split.items()}


def _split_of(name: str, asked: set[str], *, shards: bool) -> str | None:
    """The split that a whole folder's name, or the beginning of a shard's, stands for."""
    *folders, file = name.split(os.sep)
    for folder in folders:
        if (word := _known(folder.lower().rstrip("0123456789"), asked)) or (word := _known(folder, asked)):
            return word
    if not shards:
        return None
    if found := OF_TOTAL.match(file):
        return _known(found["split"].lower(), asked)
    return _known(next(iter(BETWEEN.split(file.lower()))), asked)


def _word_in(name: str, asked: set[str]) -> str | None:
    """The split that any word of a path stands for, as in my-train/1.png or val_0001.png."""
    words = (word for part in name.split(os.sep) for word in BETWEEN.split(part.lower()))
    return next((split for word in words if (split := _known(word, asked))), None)


def _known(word: str, asked: set[str]) -> str | None:
    return word if word in asked else WORDS.get(word)


def _unmentioned(names: Iterable[str], splits: Sequence[str | None], where: str) -> UsageError:
    """The error of a folder with splits of which the options mention `train` alone."""
    examples = {split: name for name, split in reversed(list(zip(names, splits, strict=True))) if split is not None}
    shown = "; ".join(f"{split}: {examples[split]}" for split in sorted(examples))
    return UsageError(
        f"names of its folders and files are those of the splits {' and '.join(sorted(examples))}", where=where,
        expected="one split, or options that say which is used", got=shown,
        do="name another with validation_split, add them as in split: train+test, or set data_dir or data_files to one",
    )  # fmt: skip
