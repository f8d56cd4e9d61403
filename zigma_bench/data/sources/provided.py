"""Shared code for data sets that you must provide yourself, because of their licences, as a folder with a fixed layout.

Each image is a file. If images are missing, the plan's error explains how to get them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zigma_bench.data.reading.hashes import hashes_of
from zigma_bench.plugins.registry import Missing

if TYPE_CHECKING:
    from zigma_bench.data.checks.dataset import CheckResult

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Provided:
    """A data set that you must provide: `what` it is, with its licence, how to `get` it, the `layout` of its folder."""

    name: str
    what: str
    get: str
    layout: str

    def missing(self, root: Path, state: str = "") -> Missing:
        """The data set as missing, for a plan; `state` says which parts exist."""
        note = f" ({state})" if state else ""
        return Missing(
            f"{self.what} in {root}{note}",
            f"{self.get}; lay it out as {self.layout}; then check it: zigma-bench data check {self.name} --from {root}",
        )


@dataclass(frozen=True)
class FileRows:
    """Encoded images in files, in order; errors call them `label`."""

    files: tuple[Path, ...]
    label: str

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[tuple[bytes, str]]:
        """(encoded bytes, file name) of each image."""
        return [(read_image(self.files[int(index)]), str(self.files[int(index)])) for index in indices]


def read_image(file: Path) -> bytes:
    """The bytes of an image file; BadImage if it can't be read or is empty."""
    from zigma_bench.data.reading.decode import MEND
    from zigma_bench.errors import BadImage

    if not file.is_file():
        raise BadImage("not a file, or a broken link", where=str(file), do=MEND)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadImage(f"the file can't be read ({error.strerror})", where=str(file), do=MEND) from error
    if not data:
        raise BadImage("the file is empty", where=str(file), do=MEND)
    return data


def image_parts(files: Sequence[Path], resolution: int) -> Iterator[Callable[[], CheckResult]]:
    """The parts of a check that decode every file."""
    from zigma_bench.data.checks.dataset import CHUNK, CheckResult
    from zigma_bench.data.reading.decode import decode_image
    from zigma_bench.errors import BadImage

    def check(some: Sequence[Path]) -> CheckResult:
        problems = []
        for file in some:
            try:
                data = read_image(file)
                decode_image(data, channels=3, resolution=resolution, resize="short-side-center-crop", where=str(file))
            except BadImage as error:
                problems.append(error)
        return CheckResult(len(some), tuple(problems))

    for start in range(0, len(files), CHUNK):
        yield lambda some=files[start : start + CHUNK]: check(some)  # type: ignore[misc]


def root_of(root: str) -> Path:
    """The absolute path of an option `root`."""
    return Path(root).expanduser().absolute()


def file_hashes(files: Iterable[Path], root: Path) -> list[tuple[str, str]]:
    """(name below the root, sha256) of each existing file."""
    existing = [file for file in files if file.is_file()]
    names = [file.relative_to(root).as_posix() for file in existing]
    return list(zip(names, hashes_of(existing), strict=True))
