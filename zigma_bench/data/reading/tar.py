"""The samples of a webdataset shard, read from the tar file itself, strictly."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from zigma_bench.errors import NotReady

AGAIN = "get the file again"


@dataclass(frozen=True)
class Sample:
    """What stands together in a shard: files in a row whose names are equal up to their first dot.

    `twice`: fields that stood there again; their first bytes are kept.
    """

    key: str
    fields: dict[str, bytes] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


def samples_of(file: str) -> Iterator[Sample]:
    """The samples of a shard in their order; NotReady where the file is cut off or no tar file."""
    sample = None
    for name, data in _members(file):
        key, suffix = _key_of(name)
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if suffix in sample.fields:
            sample.twice.append(suffix)
        else:
            sample.fields[suffix] = data
    if sample is not None:
        yield sample


def count_samples(file: str) -> int:
    """The samples of a shard, from the heads of its files alone; NotReady as of `samples_of`."""
    keys = (_key_of(name)[0] for name, _ in _members(file, contents=False))
    return sum(1 for _ in itertools.groupby(keys))


def _key_of(name: str) -> tuple[str, str]:
    """(key, field) of a file: what stands before the first dot of its name, with its folder, and what stands after."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix


def check_end(file: str) -> None:
    """NotReady where a tar file does not end as one does; reads its last block alone."""
    with open(file, "rb") as opened:
        opened.seek(0, 2)
        opened.seek(max(0, opened.tell() - tarfile.BLOCKSIZE))
        if opened.read() != bytes(tarfile.BLOCKSIZE):
            raise NotReady("the tar file is cut off: it ends without the end mark", where=file, do=AGAIN)


def _members(file: str, *, contents: bool = True) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file of a tar file, which must end as one does: a cut between two files is a cut too.

    Hidden files are left out. NotReady, which names it, for what a reader of shards would pass over: a link, or another
    member that is no file, and a file whose name has no dot, so that it belongs to no field.
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
                    raise tarfile.ReadError("it ends without the end mark")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotReady(f"the tar file is cut off or broken ({error})", where=file, do=AGAIN) from error


def _check_member(member: tarfile.TarInfo, file: str) -> None:
    where = f"{file}, {member.name}"
    if not member.isfile():
        raise NotReady("a link, or another entry that is no file, in a shard", where=where, do="write the file itself")
    if "." not in member.name.rpartition("/")[2]:
        raise NotReady(
            "a file of a shard without a field", where=where, expected="KEY.FIELD, as in 0001.png", do="rename it"
        )
