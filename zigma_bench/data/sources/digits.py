"""The 1,797 handwritten digits that come with scikit-learn: real images for a first run, without a download."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import ArrayImages, Captions, Counts, Crop, Labels, Pixels, Splits
from zigma_bench.data.reading.files import source_fingerprint
from zigma_bench.data.reading.holdout import hold_out
from zigma_bench.data.sources.options import DigitsOptions
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry import Condition, DataFacts, Missing

IMAGES = 1797
SIDE, CLASSES = 8, 10
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
INSTALL = "install scikit-learn, which includes them: pip install scikit-learn"


def describe(options: DigitsOptions) -> DataFacts:
    """The facts of the digits; UsageError for an invalid `validation` or `resolution`."""
    _check_options(options)
    file = _file()
    if file is None:
        missing: tuple[Missing, ...] = (Missing("the digits of scikit-learn", INSTALL),)
        parts: dict[str, object] = {"sha256": None}
    else:
        missing = ()
        parts = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    parts |= {"validation": options.validation, "resolution": options.resolution}
    if options.caption is not None:
        parts["caption"] = options.caption
    size, identity = options.resolution, source_fingerprint("digits", parts)
    conditions = (Condition("class", CLASSES),)
    return DataFacts(
        1, size, size, identity, missing, options.validation, conditions, captions=options.caption is not None,
        crops=options.resolution == SIDE,
    )  # fmt: skip


def load(options: DigitsOptions) -> Splits:
    """The digits as uint8 [N, 1, resolution, resolution], from 0 (black background) to 255 (ink); `validation` of them
    are held out."""
    _check_options(options)
    return hold_out(all_digits(options.resolution, options.caption), options.validation, where="digits")


def count(options: DigitsOptions) -> Counts:
    """The numbers of training and held-out digits."""
    return Counts(IMAGES - options.validation, options.validation, CLASSES)


class Digits(ArrayImages):
    """Digits at their own size, from which crops can be taken."""

    def cropped(self, indices: Sequence[int] | npt.NDArray[np.integer], crops: Sequence[Crop]) -> Pixels:
        from PIL import Image

        from zigma_bench.data.reading.decode import cut_crop

        found = [
            np.asarray(cut_crop(Image.fromarray(image[0]), SIDE, "squash", crop, "digits"))
            for image, crop in zip(self.take(indices), crops, strict=True)
        ]
        return np.stack(found)[:, None]


def all_digits(resolution: int = SIDE, caption: str | None = None) -> ArrayImages:
    """All 1,797 digits in the order of their file, with classes and, if `caption` is set, captions."""
    pixels, classes = _read_digits()
    texts = None if caption is None else [_captions_of_digit(int(k), caption) for k in classes]
    if resolution == SIDE:
        return Digits(pixels, classes, texts)
    return ArrayImages(_scale_digits(pixels, resolution), classes, texts)


def _check_options(options: DigitsOptions) -> None:
    if not 1 <= options.validation < IMAGES:
        raise UsageError(
            "validation must leave training and held-out images",
            where="digits",
            expected=f"1 to {IMAGES - 1}",
            got=options.validation,
        )
    if options.resolution < SIDE or options.resolution % SIDE:
        raise UsageError(
            "invalid resolution for the digits", where="digits", expected="a multiple of 8", got=options.resolution
        )


def _captions_of_digit(digit: int, how_many: str) -> Captions:
    """The captions of a digit: one or several."""
    name = NAMES[digit]
    first = f"the digit {name}"
    return (first,) if how_many == "one" else (first, f"a handwritten {name}", f"{digit}, written by hand")


def _file() -> Path | None:
    """The file of the digits in scikit-learn, which isn't imported, because that takes a second."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        return None
    file = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    return file if file.is_file() else None


def _read_digits() -> tuple[Pixels, Labels]:
    """All digits, uint8 [1797, 1, 8, 8], and their classes; a line of the file is 64 values (0 to 16) and a class."""
    file = _file()
    if file is None:
        raise NotReady("the digits of scikit-learn are missing", where="digits", do=INSTALL)
    table = np.loadtxt(file, delimiter=",")
    if table.shape != (IMAGES, SIDE * SIDE + 1):
        raise NotReady(
            "not the file of digits", where=str(file), expected=f"{IMAGES} x {SIDE * SIDE + 1}", got=table.shape
        )
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(IMAGES, 1, SIDE, SIDE)
    return pixels, table[:, -1].astype(np.int64)


def _scale_digits(pixels: Pixels, resolution: int) -> Pixels:
    """[N, 1, 8, 8] to [N, 1, R, R], bicubic."""
    from PIL import Image

    size = (resolution, resolution)
    scaled = [np.asarray(Image.fromarray(image[0]).resize(size, Image.Resampling.BICUBIC)) for image in pixels]
    return np.stack(scaled)[:, None]
