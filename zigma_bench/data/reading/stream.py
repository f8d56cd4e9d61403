"""Images that come one after another, from the Hub or from shards, and are never stored whole.

An epoch shuffles them through a buffer: it holds the next `buffer` images of the stream, one of them is drawn, and the
next takes its place. Which image is drawn when follows from (seed, epoch) and the two numbers alone, so a training that
goes on in the middle of an epoch skips to the first image that is still to come, and sees the same images.
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

from zigma_bench.data.images import Crop, Labels, Pixels, Texts
from zigma_bench.data.latents.encoded import SMALL_BYTES, DecodedImages
from zigma_bench.data.reading.decode import Resize, decode
from zigma_bench.data.reading.readahead import read_ahead
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.system.device import cores

READ_AHEAD = 1000  # encoded images that wait for their turn

Indices = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True)
class Row:
    """An encoded image of a stream, where it comes from, and its class and texts, if there are any."""

    data: bytes
    where: str
    label: int | None
    texts: Texts | None


class Opened(Protocol):
    """The rows of a stream from number `start` on; with `pictures` false without their images, `data` empty."""

    def __call__(self, start: int, *, pictures: bool = True) -> Iterator[Row]: ...


@dataclass(frozen=True)
class Stream:
    """Rows in a fixed order. It must pickle.

    `label` names it in errors; `classes` and `captions` say whether its rows have a class, and texts.
    """

    open: Opened
    label: str
    classes: bool
    captions: bool

    def rows(self, start: int, count: int, *, pictures: bool = True) -> Iterator[Row]:
        """`count` rows; NotReady if the stream ends before."""
        done = 0
        for row in itertools.islice(self.open(start, pictures=pictures), count):
            yield row
            done += 1
        if done < count:
            got = start + done if done or not start else f"{start} at most"  # rows that are passed over are not counted
            raise too_few(self.label, start + count, got)

    def labels_of(self, rows: Iterable[Row]) -> Labels:
        """The classes of some rows; UsageError where they have none."""
        if not self.classes:
            raise UsageError("these images have no labels", where=self.label, do="name their column with label")
        return np.array([row.label for row in rows], dtype=np.int64)

    def texts_of(self, rows: Iterable[Row]) -> list[Texts]:
        """The texts of some rows; UsageError where they have none."""
        if not self.captions:
            raise UsageError("these images have no captions", where=self.label, do="name their column with caption")
        return [row.texts or () for row in rows]


def too_few(label: str, expected: int, got: int | str) -> NotReady:
    """The error of a stream that ends before it has given what was asked of it."""
    return NotReady(
        "the stream has too few images", where=label, expected=f"{expected:,} (validation and count)", got=got,
        do="lower count or validation",
    )  # fmt: skip


@functools.lru_cache(maxsize=2)
def buffered_order(count: int, buffer: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The numbers 0 to count - 1 as a shuffle buffer gives them: number i never before place i - buffer + 1."""
    generator = np.random.default_rng([seed, epoch, 1])
    held = list(range(min(buffer, count)))
    given = []
    for number, place in enumerate(generator.integers(len(held), size=count - len(held)).tolist(), len(held)):
        given.append(held[place])
        held[place] = number
    return np.concatenate([np.array(given, dtype=np.int64), generator.permutation(np.array(held, dtype=np.int64))])


class StreamedImages:
    """`count` images of a stream after the first `skip`: uint8 [count, channels, resolution, resolution].

    `take` reads from the start to what it is asked for, and goes on from there where that comes later. A training takes
    the images of its `epoch`s. What stands beside the images is read once, without them, and kept.
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

    def __reduce__(self) -> tuple[Any, ...]:  # a copy in another process reads for itself
        rest = {key: getattr(self, key) for key in ("skip", "count", "buffer", "channels", "resolution", "resize")}
        return functools.partial(StreamedImages, self.stream, **rest), ()

    def take(self, indices: Indices) -> Pixels:
        return self._reader.take(indices)

    def cropped(self, indices: Indices, crops: Sequence[Crop]) -> Pixels:
        return self._reader.cropped(indices, crops)

    def labels(self, indices: Indices) -> Labels:
        return self.stream.labels_of(self._beside[int(index)] for index in indices)

    def captions(self, indices: Indices) -> list[Texts]:
        return self.stream.texts_of(self._beside[int(index)] for index in indices)

    @cached_property
    def _beside(self) -> list[Row]:
        return list(self.stream.rows(self.skip, self.count, pictures=False))

    def epoch(self, seed: int, number: int) -> _Reader:
        """The images in the order of an epoch: place p of it is the p-th image that a training sees."""
        key = (seed, number)
        if key not in self._epochs:
            if len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            self._epochs[key] = _Reader(self, buffered_order(self.count, self.buffer, seed, number), ahead=READ_AHEAD)
        return self._epochs[key]

    def decode(self, row: Row, crop: Crop | None) -> Pixels:
        size = {"channels": self.channels, "resolution": self.resolution}
        return decode(row.data, **size, resize=self.resize, where=row.where, crop=crop)


class _Reader:
    """The images of a stream in some order; a place that lies behind the last one begins the stream anew.

    `ahead` rows are read on a thread of their own before they are asked for.
    """

    def __init__(self, images: StreamedImages, order: npt.NDArray[np.int64], *, ahead: int) -> None:
        self.images, self.order, self.ahead = images, order, ahead
        self.place_of = np.argsort(order)
        self.rows: Iterator[Row] | None = None
        self.number = self.place = 0  # of the row that comes next from the stream, and of the next to be given
        self.held: dict[int, Row] = {}
        self.last: tuple[list[int], list[Row]] = ([], [])

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
        with ThreadPoolExecutor(cores()) as pool:
            run = map if small else pool.map
            for index, image in enumerate(run(self.images.decode, rows, crops)):
                pixels[index] = image
        return pixels

    def labels(self, places: Indices) -> Labels:
        return self.images.stream.labels_of(self._rows(places))

    def captions(self, places: Indices) -> list[Texts]:
        return self.images.stream.texts_of(self._rows(places))

    def _rows(self, places: Indices) -> list[Row]:
        """The rows of some places; those of the last call are kept, for labels are asked for after the pixels."""
        wanted = [int(place) for place in np.arange(len(self))[np.asarray(places, dtype=np.int64)]]
        if wanted != self.last[0]:
            found = {place: self._row(place) for place in sorted(set(wanted))}
            self.last = (wanted, [found[place] for place in wanted])
        return self.last[1]

    def _row(self, place: int) -> Row:
        if self.rows is None or place < self.place:
            self._seek(place)
        assert self.rows is not None
        wanted = int(self.order[place])
        while self.number <= wanted:
            row = next(self.rows)
            if self.place_of[self.number] >= place:
                self.held[self.number] = row
            self.number += 1
        for passed in range(self.place, place):
            self.held.pop(int(self.order[passed]), None)
        self.place = place + 1
        return self.held.pop(wanted)

    def _seek(self, place: int) -> None:
        """Begin at the first row that a place from here on needs."""
        self.number, self.place, self.held = int(self.order[place:].min()), place, {}
        start, images = self.number, self.images
        rows = images.stream.rows(images.skip + start, images.count - start)
        self.rows = read_ahead(rows, self.ahead) if self.ahead else rows


@dataclass(frozen=True)
class HeldRows:
    """Encoded images in memory, read like those of a table."""

    encoded: tuple[tuple[bytes, str], ...]
    label: str

    def __len__(self) -> int:
        return len(self.encoded)

    def read(self, indices: Indices) -> list[tuple[bytes, str]]:
        return [self.encoded[int(index)] for index in indices]


@dataclass(frozen=True)
class HeadImages:
    """The first `count` images of a stream, read when they are first taken and kept encoded."""

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

    def captions(self, indices: Indices) -> list[Texts]:
        return self._images.captions(indices)

    @cached_property
    def _images(self) -> DecodedImages:
        rows = list(self.stream.rows(0, self.count))
        classes = self.stream.labels_of(rows) if self.stream.classes else None
        texts = self.stream.texts_of(rows) if self.stream.captions else None
        held = HeldRows(tuple((row.data, row.where) for row in rows), self.stream.label)
        return DecodedImages(held, self.channels, self.resolution, self.resize, classes, texts)
