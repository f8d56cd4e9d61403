"""Check every image of a data set before a run, and list all problems, not only the first.

    result = check(catalogue().get("dataset", name), options)
    for problem in result.problems:
        print(problem)

The check covers the hash of every file, computed again and compared with the cached hash, missing files, every image,
the sizes of both splits, and every label. A data set with its own checks names a function in `DatasetFacts.check`.
`function(options)` yields parts: functions that check some of the files and return a CheckResult. It is called even if
files are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zigma_bench.data.images import Counts, Crop, Images, Splits, has_order, labels_of, take_crops
from zigma_bench.data.reading.counts import missing_classes
from zigma_bench.data.reading.decode import enlarged
from zigma_bench.data.reading.hashes import always_rehash, changed_unseen
from zigma_bench.errors import BadImage, NotReady, UsageError, ZigmaBenchError
from zigma_bench.plugins.registry import DataFacts, Spec, load_target
from zigma_bench.system.device import core_count

CHUNK = 100  # images per part


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    `images` is the number of checked images. `problems` are errors that would end a run. `enlarged` is the
    number of images (frames for clips) that are smaller than the resolution. `counts` are those of the whole data set,
    if it could be loaded.
    """

    images: int = 0
    problems: tuple[ZigmaBenchError, ...] = ()
    enlarged: int = 0
    counts: Counts | None = field(default=None, compare=False)

    def __add__(self, other: CheckResult) -> CheckResult:
        images, small = self.images + other.images, self.enlarged + other.enlarged
        return CheckResult(images, self.problems + other.problems, small, self.counts or other.counts)


Part = Callable[[], CheckResult]
Progress = Callable[[int], None]  # called with the number of checked images


def check_dataset_files(
    spec: Spec,
    options: Any,
    *,
    threads: int | None = None,
    progress: Progress = lambda images: None,
    random_crop: int | None = None,
) -> CheckResult:
    """All problems of a registered data set with `options` (from `spec.make_options`).

    Images are decoded in `threads` threads (default: one per core). With a recipe's `random_crop`, training images are
    also cropped. Without problems, a run can read every image.
    """
    try:
        with always_rehash() as rehash:
            facts: DataFacts = spec.facts.describe(options)
    except ZigmaBenchError as error:
        return CheckResult(0, (error.at(f"data: {spec.name}"),))
    found = _find_problems(spec, options, facts, threads, progress, random_crop)
    return found + CheckResult(0, tuple(changed_unseen(file) for file in rehash.wrong))


def _find_problems(
    spec: Spec, options: Any, facts: DataFacts, threads: int | None, progress: Progress, random_crop: int | None
) -> CheckResult:
    """All problems of a data set with these facts."""
    found = CheckResult(0, tuple(NotReady(f"{item.what} is missing", do=item.do) for item in facts.missing))
    if spec.facts.check is not None:
        found += run_parts(_own_parts(spec.facts.check, options), threads=threads, progress=progress)
    if found.problems:
        return found
    try:
        splits: Splits = spec.load()(options)
    except Exception as error:
        return found + CheckResult(0, (_as_problem(error, f"data: {spec.name}", NotReady),))
    if spec.facts.check is None:
        found += run_parts(parts_of(splits, facts), threads=threads, progress=progress)
    found += CheckResult(0, tuple(_split_problems(splits, facts)), counts=_count_images(splits, facts))
    if random_crop is not None and not found.problems:
        found += run_parts(_crop_parts(splits.train, random_crop), threads=threads)
    return found


def _count_images(splits: Splits, facts: DataFacts) -> Counts:
    """The numbers of training and held-out images, and of classes of the training images (None for a stream)."""
    classes = None
    if any(item.kind == "class" for item in facts.conditions) and not has_order(splits.train):
        try:
            classes = len(np.unique(labels_of(splits.train, range(len(splits.train)))))
        except Exception:
            classes = None  # `_label_problems` reports the error
    return Counts(len(splits.train), len(splits.validation), classes)


def run_parts(
    parts: Iterable[Part], *, threads: int | None = None, progress: Progress = lambda images: None
) -> CheckResult:
    """The sum of the results of all parts, in order; only a few parts are in the queue at a time."""
    threads = threads or core_count()
    results: dict[int, CheckResult] = {}
    images = 0
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: dict[Any, int] = {}
        for number, part in enumerate(_guard_parts(parts)):
            waiting[pool.submit(_run_part, part)] = number
            while len(waiting) >= 2 * threads:
                images = _collect(waiting, results, images, progress)
        while waiting:
            images = _collect(waiting, results, images, progress)
    finally:
        pool.shutdown(cancel_futures=True)
    return sum((results[number] for number in sorted(results)), CheckResult())


def _own_parts(target: str, options: Any) -> Iterator[Part]:
    yield from load_target(target)(options)


def _guard_parts(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts; if creating the next part fails, a last part that reports the error."""
    try:
        yield from parts
    except Exception as error:
        found = CheckResult(0, (_as_problem(error, "data", NotReady),))
        yield lambda: found


def _collect(waiting: dict[Any, int], results: dict[int, CheckResult], images: int, progress: Progress) -> int:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        found = results[waiting.pop(future)] = future.result()
        images += found.images
    progress(images)
    return images


def _run_part(part: Part) -> CheckResult:
    """The result of a part, run in the thread that decodes its images; an error becomes its problem."""
    enlarged.images = 0
    try:
        return replace(found := part(), enlarged=found.enlarged + enlarged.images)
    except Exception as error:
        return CheckResult(0, (_as_problem(error, "data", NotReady),))


def _as_problem(error: Exception, where: str, kind: type[ZigmaBenchError]) -> ZigmaBenchError:
    """An error as a ZigmaBenchError, because readers raise all kinds of errors on broken data."""
    if isinstance(error, ZigmaBenchError):
        return error.at(where)
    return kind(f"the data can't be read ({type(error).__name__}: {error})", where=where)


def parts_of(splits: Splits, facts: DataFacts) -> Iterator[Part]:
    """Parts that read every image of both splits."""
    for name, images in (("training", splits.train), ("validation", splits.validation)):
        for start in range(0, len(images), CHUNK):
            indices = range(start, min(start + CHUNK, len(images)))
            yield lambda name=name, images=images, indices=indices: _check_images(name, images, indices, facts)  # type: ignore[misc]


def _check_images(name: str, images: Images, indices: range, facts: DataFacts) -> CheckResult:
    """The result for some images: read together, and one by one if that fails, to find all broken images."""
    problems = _image_problems(name, images, indices, facts)
    if problems and len(indices) > 1:
        enlarged.images = 0
        problems = [
            problem for index in indices for problem in _image_problems(name, images, range(index, index + 1), facts)
        ]
    return CheckResult(len(indices), tuple(problems))


def _image_problems(name: str, images: Images, indices: range, facts: DataFacts) -> list[ZigmaBenchError]:
    where = f"{name} image {indices[0]}"
    try:
        pixels = images.take(indices)
    except Exception as error:
        return [_as_problem(error, where, BadImage)]
    shape = (len(indices), *facts.shape)
    if pixels.dtype == np.uint8 and pixels.shape == shape:
        return []
    got = f"{pixels.dtype} {list(pixels.shape)}"
    return [
        BadImage(
            "the image has another dtype or shape than described", where=where, expected=f"uint8 {list(shape)}", got=got
        )
    ]


def _crop_parts(images: Images, short_side: int) -> Iterator[Part]:
    """Parts that crop every training image; a single part for a stream, which is read in order."""
    chunks = [range(start, min(start + CHUNK, len(images))) for start in range(0, len(images), CHUNK)]

    def check_crops(some: list[range]) -> CheckResult:
        return CheckResult(0, tuple(problem for chunk in some for problem in _crop_problems(images, chunk, short_side)))

    for some in [chunks] if has_order(images) else [[chunk] for chunk in chunks]:
        yield lambda some=some: check_crops(some)  # type: ignore[misc]


def _crop_problems(images: Images, indices: range, short_side: int) -> list[ZigmaBenchError]:
    """The errors of the images that can't be cropped, one per image."""
    try:
        take_crops(images, indices, [Crop(short_side, 0.5, 0.5)] * len(indices))
    except Exception as error:
        if len(indices) == 1:
            return [_as_problem(error, f"training image {indices[0]}", BadImage)]
        return [problem for index in indices for problem in _crop_problems(images, range(index, index + 1), short_side)]
    return []


def _split_problems(splits: Splits, facts: DataFacts) -> Iterator[ZigmaBenchError]:
    """The problems of the splits as a whole, and of their labels."""
    held_out = len(splits.validation)
    if not len(splits.train) or not held_out:
        yield UsageError("a split has no images", got=f"{len(splits.train)} training images and {held_out} held out")
    if facts.held_out is not None and facts.held_out != held_out:
        what = "the number of held-out images differs from the description"
        yield UsageError(what, expected=str(facts.held_out), got=held_out)
    if has_order(splits.train):  # only reading a stream to its end shows whether it is long enough
        try:
            splits.train.take([len(splits.train) - 1])
        except Exception as error:
            yield _as_problem(error, "the last training image", NotReady)
            return
    for condition in facts.conditions:
        if condition.kind == "class":
            yield from _label_problems(splits, condition.size)


def _label_problems(splits: Splits, classes: int) -> Iterator[ZigmaBenchError]:
    for name, images in (("training", splits.train), ("validation", splits.validation)):
        try:
            labels = labels_of(images, range(len(images)))
        except Exception as error:
            yield _as_problem(error, f"the classes of the {name} images", NotReady)
            continue
        if name == "training" and (problem := missing_classes(labels, classes)) is not None:
            yield problem
        for index in np.flatnonzero((labels < 0) | (labels >= classes)):
            where = f"{name} image {index}"
            yield BadImage(
                "class label out of range", where=where, expected=f"0 to {classes - 1}", got=int(labels[index])
            )
