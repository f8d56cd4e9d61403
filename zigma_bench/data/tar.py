"""The samples of a webdataset shard, read from the tar file itself, strictly."""

from __future__ import annotations

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
        folder, slash, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if not dot:
            continue
        key = f"{folder}{slash}{stem}"
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


def check_end(file: str) -> None:
    """NotReady where a tar file does not end as one does; reads its last block alone."""
    with open(file, "rb") as opened:
        opened.seek(0, 2)
        opened.seek(max(0, opened.tell() - tarfile.BLOCKSIZE))
        if opened.read() != bytes(tarfile.BLOCKSIZE):
            raise NotReady("the tar file is cut off: it ends without the end mark", where=file, do=AGAIN)


def _members(file: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file of a tar file, which must end as one does: a cut between two files is a cut too."""
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                base = member.name.rpartition("/")[2]
                if member.isfile() and not base.startswith((".", "__")):
                    opened = tar.extractfile(member)
                    assert opened is not None, member
                    yield member.name, opened.read()
            with open(file, "rb") as raw:
                raw.seek(tar.offset)
                if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it ends without the end mark")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotReady(f"the tar file is cut off or broken ({error})", where=file, do=AGAIN) from error
