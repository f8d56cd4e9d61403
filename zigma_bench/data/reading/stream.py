"""Streamed images, from the Hub or from shards, which are never stored completely.

An epoch shuffles the images through a buffer that holds the next `buffer` images of the stream: one of them is drawn at
random, and the next image of the stream replaces it. The order depends only on (seed, epoch), `count` and `buffer`. A
training run that resumes in the middle of an epoch therefore skips to the first image that it still needs, and sees the
same images.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import Captions, Crop, Labels, Pixels
from zigma_bench.data.latents.encoded import SMALL_BYTES, DecodedImages
from zigma_bench.data.reading.decode import Resize, decode_image
from zigma_bench.data.reading.readahead import read_ahead
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.system.device import core_count

READ_AHEAD = 1000  # encoded images that are read ahead

Indices = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True)
class StreamRow:
    """An encoded image of a stream, its place in the stream for errors, and its optional class and captions."""

    data: bytes
    where: str
    label: int | None
    texts: Captions | None


class Opened(Protocol):
    """A function that reads the rows of a stream from row `start`; without `pictures`, their `data` is empty."""

    def __call__(self, start: int, *, pictures: bool = True) -> Iterator[StreamRow]: ...


@dataclass(frozen=True)
class Stream:
    """A sequence of rows in a fixed order; it must pickle.

    `label` names it in errors. `classes` and `captions` say whether its rows have classes and captions.
    """

    open: Opened
    label: str
    classes: bool
    captions: bool

    def rows(self, start: int, count: int, *, pictures: bool = True) -> Iterator[StreamRow]:
        """`count` rows from row `start`; NotReady if the stream ends before."""
        done = 0
        for row in itertools.islice(self.open(start, pictures=pictures), count):
            yield row
            done += 1
        if done < count:
            got = start + done if done or not start else f"{start} at most"  # the number of skipped rows is unknown
            raise too_few(self.label, start + count, got)

    def labels_of(self, rows: Iterable[StreamRow]) -> Labels:
        """The classes of rows, int64 [n]; UsageError for a stream without classes."""
        if not self.classes:
            raise UsageError("these images have no labels", where=self.label, do="name their column with label")
        return np.array([row.label for row in rows], dtype=np.int64)

    def captions_of(self, rows: Iterable[StreamRow]) -> list[Captions]:
        """The captions of rows; UsageError for a stream without captions."""
        if not self.captions:
            raise UsageError("these images have no captions", where=self.label, do="name their column with caption")
        return [row.texts or () for row in rows]


def too_few(label: str, expected: int, got: int | str) -> NotReady:
    """The error for a stream that ends too early."""
    return NotReady(
        "the stream has too few images", where=label, expected=f"{expected:,} (validation and count)", got=got,
        do="lower count or validation",
    )  # fmt: skip


@functools.lru_cache(maxsize=2)
def buffered_order(count: int, buffer: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The numbers 0 to count - 1 in the order of a shuffle buffer: number i is never before position i - buffer + 1."""
    generator = np.random.default_rng([seed, epoch, 1])
    held = list(range(min(buffer, count)))
    drawn = []
    for number, place in enumerate(generator.integers(len(held), size=count - len(held)).tolist(), len(held)):
        drawn.append(held[place])
        held[place] = number
    return np.concatenate([np.array(drawn, dtype=np.int64), generator.permutation(np.array(held, dtype=np.int64))])


class StreamedImages:
    """`count` images of a stream after the first `skip`: uint8 [count, channels, resolution, resolution].

    `take` reads the stream forwards, and restarts it for an earlier image. Training reads the images of an `epoch`.
    Labels and captions are read once, without the images, and cached.
    """

    decodes = True

    def __init__(
        self, stream: Stream, *, skip: int, count: int, buffer: int, channels: int, resolution: int, resize: Resize
    ) -> None:
        self.stream, self.skip, self.count, self.buffer = stream, skip, count, buffer
        self.channels, self.resolution, self.resize = channels, resolution, resize
        self._reader = _Reader(self, np.arange(count), ahead=0)
        self._epochs: dict[tuple[int, int], _Reader] = {}

    def __len__(self) -> int:
        return self.count

    def __reduce__(self) -> tuple[Any, ...]:  # a copy in another process opens the stream again
        rest = {key: getattr(self, key) for key in ("skip", "count", "buffer", "channels", "resolution", "resize")}
        return functools.partial(StreamedImages, self.stream, **rest), ()

    def take(self, indices: Indices) -> Pixels:
        return self._reader.take(indices)

    def cropped(self, indices: Indices, crops: Sequence[Crop]) -> Pixels:
        return self._reader.cropped(indices, crops)

    def labels(self, indices: Indices) -> Labels:
        return self.stream.labels_of(self._rows_without_images[int(index)] for index in indices)

    def captions(self, indices: Indices) -> list[Captions]:
        return self.stream.captions_of(self._rows_without_images[int(index)] for index in indices)

    @cached_property
    def _rows_without_images(self) -> list[StreamRow]:
        return list(self.stream.rows(self.skip, self.count, pictures=False))

    def epoch(self, seed: int, number: int) -> _Reader:
        """The images in the order of epoch `number`: image p of the result is the p-th image of the epoch."""
        key = (seed, number)
        if key not in self._epochs:
            if len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            self._epochs[key] = _Reader(self, buffered_order(self.count, self.buffer, seed, number), ahead=READ_AHEAD)
        return self._epochs[key]

    def decode(self, row: StreamRow, crop: Crop | None) -> Pixels:
        size = {"channels": self.channels, "resolution": self.resolution}
        return decode_image(row.data, **size, resize=self.resize, where=row.where, crop=crop)


class _Reader:
    """The images of a stream in a given order; reading an earlier image than the last one restarts the stream.

    A thread reads `ahead` rows in advance.
    """

    def __init__(self, images: StreamedImages, order: npt.NDArray[np.int64], *, ahead: int) -> None:
        self.images, self.order, self.ahead = images, order, ahead
        self.place_of = np.argsort(order)
        self.rows: Iterator[StreamRow] | None = None
        self.number = self.place = 0  # positions of the next row in the stream and of the next image in `order`
        self.held: dict[int, StreamRow] = {}
        self.last: tuple[list[int], list[StreamRow]] = ([], [])

    def __len__(self) -> int:
        return len(self.order)

    def take(self, places: Indices) -> Pixels:
        return self._decoded(places, [None] * len(places))

    def cropped(self, places: Indices, crops: Sequence[Crop]) -> Pixels:
        return self._decoded(places, crops)

    def _decoded(self, places: Indices, crops: Sequence[Crop | None]) -> Pixels:
        size, rows = self.images.resolution, self._rows(places)
        pixels = np.empty((len(rows), self.images.channels, size, size), dtype=np.uint8)
        small = sum(len(row.data) for row in rows) < SMALL_BYTES * len(rows)
        with ThreadPoolExecutor(core_count()) as pool:
            run = map if small else pool.map
            for index, image in enumerate(run(self.images.decode, rows, crops)):
                pixels[index] = image
        return pixels

    def labels(self, places: Indices) -> Labels:
        return self.images.stream.labels_of(self._rows(places))

    def captions(self, places: Indices) -> list[Captions]:
        return self.images.stream.captions_of(self._rows(places))

    def _rows(self, places: Indices) -> list[StreamRow]:
        """The rows at some places of the order; those of the last call are cached, since labels follow the pixels."""
        wanted = [int(place) for place in np.arange(len(self))[np.asarray(places, dtype=np.int64)]]
        if wanted != self.last[0]:
            found = {place: self._row(place) for place in sorted(set(wanted))}
            self.last = (wanted, [found[place] for place in wanted])
        return self.last[1]

    def _row(self, place: int) -> StreamRow:
        if self.rows is None or place < self.place:
            self._seek(place)
        assert self.rows is not None
        wanted = int(self.order[place])
        while self.number <= wanted:
            row = next(self.rows)
            if self.place_of[self.number] >= place:
                self.held[self.number] = row
            self.number += 1
        for skipped in range(self.place, place):
            self.held.pop(int(self.order[skipped]), None)
        self.place = place + 1
        return self.held.pop(wanted)

    def _seek(self, place: int) -> None:
        """Restart the stream at the first row that is needed from `place` on."""
        self.number, self.place, self.held = int(self.order[place:].min()), place, {}
        start, images = self.number, self.images
        rows = images.stream.rows(images.skip + start, images.count - start)
        self.rows = read_ahead(rows, self.ahead) if self.ahead else rows


@dataclass(frozen=True)
class HeldRows:
    """Encoded images in memory, with the interface of a table's rows."""

    encoded: tuple[tuple[bytes, str], ...]
    label: str

    def __len__(self) -> int:
        return len(self.encoded)

    def read(self, indices: Indices) -> list[tuple[bytes, str]]:
        return [self.encoded[int(index)] for index in indices]


@dataclass(frozen=True)
class HeadImages:
    """The first `count` images of a stream, read at the first access and cached in memory, encoded."""

    stream: Stream
    count: int
    channels: int
    resolution: int
    resize: Resize

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Indices) -> Pixels:
        return self._images.take(indices)

    def labels(self, indices: Indices) -> Labels:
        return self._images.labels(indices)

    def captions(self, indices: Indices) -> list[Captions]:
        return self._images.captions(indices)

    @cached_property
    def _images(self) -> DecodedImages:
        rows = list(self.stream.rows(0, self.count))
        classes = self.stream.labels_of(rows) if self.stream.classes else None
        texts = self.stream.captions_of(rows) if self.stream.captions else None
        held = HeldRows(tuple((row.data, row.where) for row in rows), self.stream.label)
        return DecodedImages(held, self.channels, self.resolution, self.resize, classes, texts)
