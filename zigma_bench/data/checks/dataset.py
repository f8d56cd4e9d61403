"""Looks at every image of a data set before a run does, and lists all that is wrong with it, not only the first.

    found = check(catalogue().get("dataset", name), options)
    for problem in found.problems:
        print(problem)

A data set is checked by what it describes and loads: the hash of every file, computed anew and compared with the one
that is remembered, everything that is missing, every image, the sizes of both splits, every label. One that can tell
more of its files names a function in `DatasetFacts.check`: `function(options)` yields parts, each a call that looks at
some of the files and gives what it `Found`; it is asked even where something is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zigma_bench.data.images import Counts, Crop, Images, Splits, cropped, has_order, labels_of
from zigma_bench.data.reading.counts import missing_classes
from zigma_bench.data.reading.decode import enlarged
from zigma_bench.data.reading.hashes import changed_unseen, rehashing
from zigma_bench.errors import BadImage, NotReady, UsageError, ZigmaBenchError
from zigma_bench.plugins.registry import DataFacts, Spec, load_target
from zigma_bench.system.device import cores

CHUNK = 100  # images that a part takes at once


@dataclass(frozen=True)
class Found:
    """How many images were looked at, how many (of clips frames) are smaller than asked for and so are enlarged,
    and what is wrong, each in the words of the error that a run would end with. `counts`: of the data set as a whole,
    where it could be loaded."""

    images: int = 0
    problems: tuple[ZigmaBenchError, ...] = ()
    enlarged: int = 0
    counts: Counts | None = field(default=None, compare=False)

    def __add__(self, other: Found) -> Found:
        images, small = self.images + other.images, self.enlarged + other.enlarged
        return Found(images, self.problems + other.problems, small, self.counts or other.counts)


Part = Callable[[], Found]
Progress = Callable[[int], None]  # is told how many images have been looked at


def check(
    spec: Spec,
    options: Any,
    *,
    threads: int | None = None,
    progress: Progress = lambda images: None,
    random_crop: int | None = None,
) -> Found:
    """Everything that is wrong with a data set of the registry under `options` (its own, made by `spec.make_options`).

    Images are decoded on `threads` (absent: one a processor); with `random_crop`, a recipe's, training images are cut
    as it says too. No problem means that a run can read every image.
    """
    try:
        with rehashing() as rehash:
            facts: DataFacts = spec.facts.describe(options)
    except ZigmaBenchError as error:
        return Found(0, (error.at(f"data: {spec.name}"),))
    found = _found(spec, options, facts, threads, progress, random_crop)
    return found + Found(0, tuple(changed_unseen(file) for file in rehash.wrong))


def _found(
    spec: Spec, options: Any, facts: DataFacts, threads: int | None, progress: Progress, random_crop: int | None
) -> Found:
    """Everything that is wrong with a data set of these facts."""
    found = Found(0, tuple(NotReady(f"{item.what} is missing", do=item.do) for item in facts.missing))
    if spec.facts.check is not None:
        found += run(_own_parts(spec.facts.check, options), threads=threads, progress=progress)
    if found.problems:
        return found
    try:
        splits: Splits = spec.load()(options)
    except Exception as error:
        return found + Found(0, (_problem(error, f"data: {spec.name}", NotReady),))
    if spec.facts.check is None:
        found += run(parts_of(splits, facts), threads=threads, progress=progress)
    found += Found(0, tuple(_faults(splits, facts)), counts=_counts(splits, facts))
    if random_crop is not None and not found.problems:
        found += run(_cut_parts(splits.train, random_crop), threads=threads)
    return found


def _counts(splits: Splits, facts: DataFacts) -> Counts:
    """What a run trains on and holds out; classes are those of the training images, of a stream none."""
    classes = None
    if any(item.kind == "class" for item in facts.conditions) and not has_order(splits.train):
        try:
            classes = len(np.unique(labels_of(splits.train, range(len(splits.train)))))
        except Exception:
            classes = None  # `_labels` names what is wrong
    return Counts(len(splits.train), len(splits.validation), classes)


def run(parts: Iterable[Part], *, threads: int | None = None, progress: Progress = lambda images: None) -> Found:
    """The sum of what all parts found, in their order; few wait at a time, however many there are."""
    threads = threads or cores()
    results: dict[int, Found] = {}
    images = 0
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: dict[Any, int] = {}
        for number, part in enumerate(_guarded(parts)):
            waiting[pool.submit(_caught, part)] = number
            while len(waiting) >= 2 * threads:
                images = _collect(waiting, results, images, progress)
        while waiting:
            images = _collect(waiting, results, images, progress)
    finally:
        pool.shutdown(cancel_futures=True)
    return sum((results[number] for number in sorted(results)), Found())


def _own_parts(target: str, options: Any) -> Iterator[Part]:
    yield from load_target(target)(options)


def _guarded(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, and where finding the next one fails, one that finds why."""
    try:
        yield from parts
    except Exception as error:
        found = Found(0, (_problem(error, "data", NotReady),))
        yield lambda: found


def _collect(waiting: dict[Any, int], results: dict[int, Found], images: int, progress: Progress) -> int:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        found = results[waiting.pop(future)] = future.result()
        images += found.images
    progress(images)
    return images


def _caught(part: Part) -> Found:
    """What a part found, on the thread that decodes its images; an error that ends it is what is wrong."""
    enlarged.images = 0
    try:
        return replace(found := part(), enlarged=found.enlarged + enlarged.images)
    except Exception as error:
        return Found(0, (_problem(error, "data", NotReady),))


def _problem(error: Exception, where: str, kind: type[ZigmaBenchError]) -> ZigmaBenchError:
    """An error as a person can read it; readers of broken data raise whatever they run into."""
    if isinstance(error, ZigmaBenchError):
        return error.at(where)
    return kind(f"it can't be read ({type(error).__name__}: {error})", where=where)


def parts_of(splits: Splits, facts: DataFacts) -> Iterator[Part]:
    """Parts that take every image of both splits."""
    for name, images in (("training", splits.train), ("validation", splits.validation)):
        for start in range(0, len(images), CHUNK):
            indices = range(start, min(start + CHUNK, len(images)))
            yield lambda name=name, images=images, indices=indices: _taken(name, images, indices, facts)  # type: ignore[misc]


def _taken(name: str, images: Images, indices: range, facts: DataFacts) -> Found:
    """Some images, taken together; where that fails one by one, so that each bad one is named."""
    problems = _wrong(name, images, indices, facts)
    if problems and len(indices) > 1:
        enlarged.images = 0
        problems = [problem for index in indices for problem in _wrong(name, images, range(index, index + 1), facts)]
    return Found(len(indices), tuple(problems))


def _wrong(name: str, images: Images, indices: range, facts: DataFacts) -> list[ZigmaBenchError]:
    where = f"{name} image {indices[0]}"
    try:
        pixels = images.take(indices)
    except Exception as error:
        return [_problem(error, where, BadImage)]
    shape = (len(indices), *facts.shape)
    if pixels.dtype == np.uint8 and pixels.shape == shape:
        return []
    got = f"{pixels.dtype} {list(pixels.shape)}"
    return [BadImage("the image is not as described", where=where, expected=f"uint8 {list(shape)}", got=got)]


def _cut_parts(images: Images, short_side: int) -> Iterator[Part]:
    """Parts that cut every training image; of a stream, which is read in its order, a single one."""
    chunks = [range(start, min(start + CHUNK, len(images))) for start in range(0, len(images), CHUNK)]

    def look(some: list[range]) -> Found:
        return Found(0, tuple(problem for chunk in some for problem in _uncut(images, chunk, short_side)))

    for some in [chunks] if has_order(images) else [[chunk] for chunk in chunks]:
        yield lambda some=some: look(some)  # type: ignore[misc]


def _uncut(images: Images, indices: range, short_side: int) -> list[ZigmaBenchError]:
    """The images that can't be cut, each by itself."""
    try:
        cropped(images, indices, [Crop(short_side, 0.5, 0.5)] * len(indices))
    except Exception as error:
        if len(indices) == 1:
            return [_problem(error, f"training image {indices[0]}", BadImage)]
        return [problem for index in indices for problem in _uncut(images, range(index, index + 1), short_side)]
    return []


def _faults(splits: Splits, facts: DataFacts) -> Iterator[ZigmaBenchError]:
    """What is wrong with the splits as a whole, and with their labels."""
    held = len(splits.validation)
    if not len(splits.train) or not held:
        yield UsageError("a split has no images", got=f"{len(splits.train)} to train on and {held} held out")
    if facts.held_out is not None and facts.held_out != held:
        yield UsageError("other than the described number is held out", expected=str(facts.held_out), got=held)
    if has_order(splits.train):  # only its end tells whether a stream has as many as it was said to have
        try:
            splits.train.take([len(splits.train) - 1])
        except Exception as error:
            yield _problem(error, "the last training image", NotReady)
            return
    for condition in facts.conditions:
        if condition.kind == "class":
            yield from _labels(splits, condition.size)


def _labels(splits: Splits, classes: int) -> Iterator[ZigmaBenchError]:
    for name, images in (("training", splits.train), ("validation", splits.validation)):
        try:
            labels = labels_of(images, range(len(images)))
        except Exception as error:
            yield _problem(error, f"the classes of the {name} images", NotReady)
            continue
        if name == "training" and (problem := missing_classes(labels, classes)) is not None:
            yield problem
        for index in np.flatnonzero((labels < 0) | (labels >= classes)):
            where = f"{name} image {index}"
            yield BadImage("its class is none", where=where, expected=f"0 to {classes - 1}", got=int(labels[index]))
