"""What the data sets of papers have in common that only a person can provide, for their licences: a folder of a layout.

Their sources say what is missing with the way to get it; images of such a set are files, one each.
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
    from zigma_bench.data.checks.dataset import Found

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Provided:
    """A data set as its home offers it: `what` it is, its licence, where to `get` it, the `layout` of a root."""

    name: str
    what: str
    get: str
    layout: str

    def missing(self, root: Path, but: str = "") -> Missing:
        """What a plan lacks; `but` says what of it is there."""
        there = f" ({but})" if but else ""
        return Missing(
            f"{self.what} in {root}{there}",
            f"{self.get}; lay it out as {self.layout}; then look at it all: "
            f"zigma-bench data check {self.name} --from {root}",
        )


@dataclass(frozen=True)
class FileRows:
    """Encoded images that are files, in order; `label` names them all."""

    files: tuple[Path, ...]
    label: str

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[tuple[bytes, str]]:
        """(encoded bytes, the file's name) of each."""
        return [(read_image(self.files[int(index)]), str(self.files[int(index)])) for index in indices]


def read_image(file: Path) -> bytes:
    """The bytes of an image file; BadImage where it can't be read or is empty."""
    from zigma_bench.data.reading.decode import MEND
    from zigma_bench.errors import BadImage

    if not file.is_file():
        raise BadImage("this is no file, or a link that leads nowhere", where=str(file), do=MEND)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadImage(f"the file can't be read ({error.strerror})", where=str(file), do=MEND) from error
    if not data:
        raise BadImage("the file is empty", where=str(file), do=MEND)
    return data


def image_parts(files: Sequence[Path], resolution: int) -> Iterator[Callable[[], Found]]:
    """The parts of a check that decode every file."""
    from zigma_bench.data.checks.dataset import CHUNK, Found
    from zigma_bench.data.reading.decode import decode
    from zigma_bench.errors import BadImage

    def look(some: Sequence[Path]) -> Found:
        problems = []
        for file in some:
            try:
                data = read_image(file)
                decode(data, channels=3, resolution=resolution, resize="short-side-center-crop", where=str(file))
            except BadImage as error:
                problems.append(error)
        return Found(len(some), tuple(problems))

    for start in range(0, len(files), CHUNK):
        yield lambda some=files[start : start + CHUNK]: look(some)  # type: ignore[misc]


def root_of(given: str) -> Path:
    """The folder of an option `root`, absolute."""
    return Path(given).expanduser().absolute()


def hashes(files: Iterable[Path], root: Path) -> list[tuple[str, str]]:
    """(name below the root, sha256) of each file that is there."""
    there = [file for file in files if file.is_file()]
    names = [file.relative_to(root).as_posix() for file in there]
    return list(zip(names, hashes_of(there), strict=True))
