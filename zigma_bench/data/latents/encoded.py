"""Rows of encoded images, which are decoded when they are read."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import Captions, Crop, Labels, Pixels
from zigma_bench.data.reading.decode import MEND, Resize, decode_image
from zigma_bench.errors import BadImage, UsageError
from zigma_bench.system.device import core_count

MEMORY_BYTES = 2**30  # a split of at most this size is decoded once and stays in memory
SMALL_BYTES = 4096  # decoding smaller images mostly holds the GIL, so threads don't help
CHUNK = 1000  # rows read at a time


class EncodedRows(Protocol):
    """Encoded images by number; `read` returns (bytes, their place for errors) of each."""

    @property
    def label(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[tuple[bytes, str]]: ...


@dataclass(frozen=True)
class Rows:
    """An image column of `datasets`, not decoded: bytes, or {bytes, path}, in each row.

    `table` is a `datasets.Dataset` in arrow format. A path without bytes must be one of `files`.
    """

    table: Any
    column: str
    label: str
    files: frozenset[str]

    def __len__(self) -> int:
        return len(self.table)

    def read(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[tuple[bytes, str]]:
        """(encoded bytes, their place for errors) of each row; BadImage for a row without an image."""
        cells = self.table[[int(index) for index in indices]].column(self.column).to_pylist()
        return [self._encoded(cell, int(index)) for cell, index in zip(cells, indices, strict=True)]

    def _encoded(self, cell: Mapping[str, Any] | bytes | None, index: int) -> tuple[bytes, str]:
        return encoded_image(cell, self.label, f"row {index}, column {self.column!r}", self.files)


def encoded_image(
    cell: Mapping[str, Any] | bytes | None, table: str, place: str, files: frozenset[str]
) -> tuple[bytes, str]:
    """(encoded bytes, their place for errors) of a cell of a table: bytes, or {bytes, path}.

    Raises BadImage for an empty cell, a path that isn't one of `files`, and a file that can't be read.
    """
    where = f"{table}, {place}"
    cell = {"bytes": cell} if isinstance(cell, bytes) else cell or {}
    data, path = cell.get("bytes"), cell.get("path")
    if data is None and not path:
        raise BadImage("the row has no image", where=where, do="remove the row")
    if data is not None:
        return data, f"{where} ({path})" if path else where
    if path not in files:  # a downloaded table must not make us read other files of this machine
        raise BadImage(
            "the row points to a file outside the data set",
            where=where,
            got=path,
            do="embed the image's bytes",
        )
    try:
        return Path(path).read_bytes(), f"{path} ({place})"
    except OSError as error:
        raise BadImage(f"the file can't be read ({error})", where=where, do=MEND) from error


@dataclass(frozen=True)
class DecodedImages:
    """Images of one size from encoded rows: uint8 [N, channels, resolution, resolution].

    If all pixels fit in MEMORY_BYTES, the first `take` decodes all images and keeps them in memory; otherwise each call
    decodes its images.
    """

    rows: EncodedRows
    channels: int
    resolution: int
    resize: Resize
    classes: Labels | None = None
    texts: Sequence[Captions] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def captions(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[Captions]:
        if self.texts is None:
            raise UsageError(
                "these images have no captions", where=self.rows.label, do="name their column with caption"
            )
        return [self.texts[int(index)] for index in indices]

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        if self.classes is None:
            raise UsageError("these images have no labels", where=self.rows.label, do="name their column with label")
        return self.classes[np.asarray(indices, dtype=np.int64)]

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        wanted = np.asarray(indices, dtype=np.int64)
        return self._decoded(wanted) if self.decodes else self._all[wanted]

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        """The images, each with its crop; they are not kept in memory."""
        return self._decoded(np.asarray(indices, dtype=np.int64), crops)

    @property
    def decodes(self) -> bool:
        """Whether the images are too large to stay in memory."""
        return len(self) * self.channels * self.resolution**2 > MEMORY_BYTES

    @cached_property
    def _all(self) -> Pixels:
        return self._decoded(np.arange(len(self)))

    def _decoded(self, indices: npt.NDArray[np.int64], crops: Sequence[Crop] | None = None) -> Pixels:
        pixels = np.empty((len(indices), self.channels, self.resolution, self.resolution), dtype=np.uint8)
        threads = _thread_count()
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(indices), CHUNK):
                rows = self.rows.read(indices[start : start + CHUNK])
                small = sum(len(data) for data, _ in rows) < SMALL_BYTES * len(rows)
                run = map if small or threads == 1 else pool.map
                cuts = [None] * len(rows) if crops is None else crops[start : start + CHUNK]
                for offset, image in enumerate(run(self._decode, rows, cuts)):
                    pixels[start + offset] = image
        return pixels

    def _decode(self, row: tuple[bytes, str], crop: Crop | None) -> Pixels:
        size: dict[str, Any] = {"channels": self.channels, "resolution": self.resolution, "resize": self.resize}
        return decode_image(row[0], **size, where=row[1], crop=crop)


def _thread_count() -> int:
    """The number of threads: one per core; one in a worker process, because several of them run."""
    return core_count() if multiprocessing.parent_process() is None else 1
