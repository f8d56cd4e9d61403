"""Strict reading of the samples of a webdataset shard from its tar file."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from zigma_bench.errors import NotReady

AGAIN = "get the file again"


@dataclass(frozen=True)
class TarSample:
    """A sample of a shard: consecutive files whose names are equal up to the first dot.

    `fields` maps suffixes to contents. `twice` is the suffixes that occur twice; the first content counts.
    """

    key: str
    fields: dict[str, bytes] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


def samples_of(file: str) -> Iterator[TarSample]:
    """The samples of a shard in order; NotReady for a truncated or invalid tar file."""
    sample = None
    for name, data in _read_members(file):
        key, suffix = _key_of(name)
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = TarSample(key)
        if suffix in sample.fields:
            sample.twice.append(suffix)
        else:
            sample.fields[suffix] = data
    if sample is not None:
        yield sample


def count_samples(file: str) -> int:
    """The number of samples of a shard, from the headers of its files; raises as `samples_of` does."""
    keys = (_key_of(name)[0] for name, _ in _read_members(file, contents=False))
    return sum(1 for _ in itertools.groupby(keys))


def _key_of(name: str) -> tuple[str, str]:
    """(key, field) of a file: its path up to the first dot of the file name, and the rest."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix


def check_end(file: str) -> None:
    """Raise NotReady if a tar file has no end mark; reads only its last block."""
    with open(file, "rb") as opened:
        opened.seek(0, 2)
        opened.seek(max(0, opened.tell() - tarfile.BLOCKSIZE))
        if opened.read() != bytes(tarfile.BLOCKSIZE):
            raise NotReady("the tar file is truncated: it has no end mark", where=file, do=AGAIN)


def _read_members(file: str, *, contents: bool = True) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file of a tar file except hidden ones; without `contents`, bytes are empty.

    Raises NotReady for a tar file that is invalid or has no end mark, and, naming the member, for a member that readers
    of shards skip: a link or another entry that isn't a file, or a file name without a dot, which has no field.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if member.isdir() or member.name.rpartition("/")[2].startswith((".", "__")):
                    continue
                _check_member(member, file)
                opened = tar.extractfile(member)
                assert opened is not None, member
                yield member.name, opened.read() if contents else b""
            with open(file, "rb") as raw:
                raw.seek(tar.offset)
                if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it has no end mark")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotReady(f"the tar file is truncated or broken ({error})", where=file, do=AGAIN) from error


def _check_member(member: tarfile.TarInfo, file: str) -> None:
    where = f"{file}, {member.name}"
    if not member.isfile():
        raise NotReady("the shard contains a link or another entry that is not a file", where=where, do="add the file")
    if "." not in member.name.rpartition("/")[2]:
        raise NotReady(
            "the name of the file has no field", where=where, expected="KEY.FIELD, as in 0001.png", do="rename it"
        )
