"""UCF101: 13,320 short videos of 101 human actions, read as clips, with the official splits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from zigma_bench.data.images import Counts, Splits
from zigma_bench.data.reading.files import source_fingerprint
from zigma_bench.data.reading.video import Cut, VideoClips, pyav_missing, read_clips
from zigma_bench.data.sources.options import Ucf101Options
from zigma_bench.data.sources.provided import Provided, file_hashes, root_of
from zigma_bench.errors import BadImage, NotReady
from zigma_bench.plugins.registry import Condition, DataFacts, Missing

if TYPE_CHECKING:
    from zigma_bench.data.checks.dataset import CheckResult

CLASSES = 101
VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"
SET = Provided(
    "ucf101",
    "UCF101 (13,320 videos of 320 x 240 pixels in 101 classes, collected from YouTube; no licence is stated with it)",
    "get UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip from its page (crcv.ucf.edu/data/UCF101.php)",
    f"{VIDEOS}/CLASS/*.avi and {LISTS}/classInd.txt, trainlist01.txt, testlist01.txt and those of 02 and 03",
)


@dataclass(frozen=True)
class Listed:
    """The videos of a list: their names below the folder of videos, and their classes."""

    names: tuple[str, ...]
    classes: tuple[int, ...]


def describe(options: Ucf101Options) -> DataFacts:
    """The facts of the data set, from its lists and the names and contents of its videos."""
    root = root_of(options.root)
    absent = [file for file in _list_files(options) if not file.is_file()]
    if absent:
        state = f"{absent[0]} is missing" if root.is_dir() else ""
        return _data_facts(options, [], 0, (SET.missing(root, state), *pyav_missing()))
    train, held = _read_lists(options)
    names = (*train.names, *held.names)
    existing = file_hashes([root / VIDEOS / name for name in names], root)
    missing = pyav_missing()
    if len(existing) < len(names):
        missing = (
            SET.missing(root, f"there are {len(existing):,} of {len(names):,} videos in its lists"),
            *missing,
        )
    return _data_facts(
        options, [*existing, *file_hashes(_list_files(options), root)], len(held.names) * options.clips, missing
    )


def load(options: Ucf101Options) -> Splits:
    """The clips as uint8 [N, frames, 3, resolution, resolution], with those of the test list held out.

    Raises NotReady if files are missing. Reading a broken video raises BadImage.
    """
    for missing in describe(options).missing:
        raise NotReady(f"{missing.what} is missing", where="data: ucf101", do=missing.do)
    root, cut = root_of(options.root), _clip_cut(options)

    def clips(side: Listed) -> VideoClips:
        files = tuple(root / VIDEOS / name for name in side.names)
        return VideoClips(files, np.array(side.classes, np.int64), cut, options.resolution)

    train, held = _read_lists(options)
    return Splits(clips(train), clips(held))


def count(options: Ucf101Options) -> Counts:
    """The numbers of training and held-out clips and of classes, from the lists of videos."""
    if not all(file.is_file() for file in _list_files(options)):
        return Counts(None, None)
    train, held = _read_lists(options)
    found = len(set(train.classes))
    return Counts(len(train.names) * options.clips, len(held.names) * options.clips, found)


def parts(options: Ucf101Options) -> Iterator[Callable[[], CheckResult]]:
    """The parts of a check: every video of both lists."""
    if not all(file.is_file() for file in _list_files(options)):
        return
    for side in _read_lists(options):
        for name in side.names:
            yield functools.partial(_check_video, options, root_of(options.root) / VIDEOS / name)


def _check_video(options: Ucf101Options, file: Path) -> CheckResult:
    from zigma_bench.data.checks.dataset import CheckResult

    if not file.is_file():
        return CheckResult(
            0, (BadImage("the video is missing, although a list names it", where=str(file), do=SET.get),)
        )
    try:
        read_clips(file, _clip_cut(options), [0], resolution=options.resolution)
    except BadImage as error:
        return CheckResult(1, (error,))
    return CheckResult(1)


def _data_facts(
    options: Ucf101Options, files: list[tuple[str, str]], held: int, missing: tuple[Missing, ...]
) -> DataFacts:
    cut = {key: getattr(options, key) for key in ("frames", "stride", "clips", "resolution", "split")}
    identity, side = source_fingerprint("ucf101", {**cut, "files": files}), options.resolution
    conditions = (Condition("class", CLASSES),)
    return DataFacts(3, side, side, identity, missing, held or None, conditions, frames=options.frames)


def _clip_cut(options: Ucf101Options) -> Cut:
    return Cut(options.frames, options.stride, options.clips)


def _list_files(options: Ucf101Options) -> tuple[Path, Path, Path]:
    """The lists of the classes, of the training videos and of the test videos."""
    folder = root_of(options.root) / LISTS
    names = ("classInd.txt", f"trainlist0{options.split}.txt", f"testlist0{options.split}.txt")
    return folder / names[0], folder / names[1], folder / names[2]


def _read_lists(options: Ucf101Options) -> tuple[Listed, Listed]:
    classes, train, test = _list_files(options)
    numbers = _class_numbers(classes)
    return _read_list(train, numbers), _read_list(test, numbers)


def _class_numbers(file: Path) -> dict[str, int]:
    """The class labels from 0 by name; a line of the file is a number, from 1, and a name."""
    words = [line.split() for line in _read_lines(file)]
    if any(len(pair) != 2 for pair in words) or sorted(number for number, _ in words) != sorted(
        str(number) for number in range(1, CLASSES + 1)
    ):
        raise NotReady(
            "not the list of classes", where=str(file), do="get it again",
            expected=f"{CLASSES} lines of a number from 1 and a name", got=f"{len(words)} lines",
        )  # fmt: skip
    return {name: int(number) - 1 for number, name in words}


def _read_list(file: Path, numbers: Mapping[str, int]) -> Listed:
    """A list of videos with their classes; a line is CLASS/NAME.avi and optionally the number of the class."""
    names, classes = [], []
    for number, line in enumerate(_read_lines(file), 1):
        name = line.split()[0]
        parts_of_name = PurePosixPath(name).parts
        if len(parts_of_name) != 2 or parts_of_name[0] not in numbers or ".." in parts_of_name:
            raise NotReady(
                "not a video of a known class", where=f"{file}:{number}", expected="CLASS/NAME.avi", got=name,
                do="get the list again",
            )  # fmt: skip
        names.append(name)
        classes.append(numbers[parts_of_name[0]])
    if not names:
        raise NotReady("the list is empty", where=str(file), do="get it again")
    return Listed(tuple(names), tuple(classes))


def _read_lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise NotReady(f"the list can't be read ({error})", where=str(file), do="get it again") from error
