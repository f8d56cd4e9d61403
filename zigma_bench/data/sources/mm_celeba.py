"""Multi-Modal-CelebA-HQ: the 30,000 faces of CelebA-HQ with ten captions each, of which one is drawn at each use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zigma_bench.data.images import Captions, Counts, Splits
from zigma_bench.data.reading.files import source_fingerprint
from zigma_bench.data.reading.folder import files_in
from zigma_bench.data.sources.options import MmCelebaOptions
from zigma_bench.data.sources.provided import SUFFIXES, FileRows, Provided, file_hashes, image_parts, root_of
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.plugins.registry import DataFacts, Missing

if TYPE_CHECKING:
    from zigma_bench.data.checks.dataset import CheckResult

IMAGES, TEXTS = "images", "celeba-caption"
SET = Provided(
    "mm-celeba",
    "Multi-Modal-CelebA-HQ (30,000 faces, 1024 x 1024 pixels, ten captions each; for non-commercial research only)",
    "get it from its project (IIGROUP/MM-CelebA-HQ-Dataset) under its agreement",
    f"{IMAGES}/0.jpg to {IMAGES}/29999.jpg (or .png) and {TEXTS}/0.txt to {TEXTS}/29999.txt, one caption per line",
)


def describe(options: MmCelebaOptions) -> DataFacts:
    """The facts of the data set, from the names and contents of its files."""
    if options.validation >= options.images:
        raise UsageError(
            "validation leaves no training image", where="mm-celeba", expected=f"1 to {options.images - 1}",
            got=options.validation,
        )  # fmt: skip
    root, found = root_of(options.root), _image_files(options)
    files, side = [*found.values(), *(_caption_file(root, number) for number in found)], options.resolution
    identity = source_fingerprint(
        "mm-celeba", {"resolution": side, "validation": options.validation, "files": file_hashes(files, root)}
    )
    return DataFacts(3, side, side, identity, _missing_files(options), options.validation, captions=True, crops=True)


def load(options: MmCelebaOptions) -> Splits:
    """The faces as uint8 [N, 3, resolution, resolution] with their captions; NotReady if some are missing."""
    from zigma_bench.data.latents.encoded import DecodedImages
    from zigma_bench.data.reading.holdout import hold_out

    for missing in describe(options).missing:
        raise NotReady(f"{missing.what} is missing", where="data: mm-celeba", do=missing.do)
    root, found = root_of(options.root), _image_files(options)
    texts = [read_captions(_caption_file(root, number)) for number in found]
    rows = FileRows(tuple(found.values()), str(root / IMAGES))
    images = DecodedImages(rows, 3, options.resolution, "short-side-center-crop", texts=texts)
    return hold_out(images, options.validation, where="mm-celeba")


def count(options: MmCelebaOptions) -> Counts:
    """The numbers of training and held-out faces."""
    return Counts(options.images - options.validation, options.validation)


def parts(options: MmCelebaOptions) -> Iterator[Callable[[], CheckResult]]:
    """The parts of a check: missing images and captions, and every image."""
    found = _image_files(options)
    if found:
        yield functools.partial(_check_numbers, options, found)
        yield from image_parts(tuple(found.values()), options.resolution)


def read_captions(file: Path) -> Captions:
    """The captions of one image, one per line; BadImage if the file is missing, invalid or empty."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise BadImage("the image has no captions", where=str(file), do="add the file, one caption per line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadImage(f"the captions can't be read ({error})", where=str(file), do="replace the file") from error
    if not (texts := tuple(line for line in lines if line)):
        raise BadImage("the file contains no caption", where=str(file), do="replace the file")
    return texts


def _check_numbers(options: MmCelebaOptions, found: dict[int, Path]) -> CheckResult:
    from zigma_bench.data.checks.dataset import CheckResult

    root = root_of(options.root)
    absent: list[BadImage] = []
    for number in range(options.images):
        if number not in found:
            absent.append(BadImage("the image is missing", where=str(root / IMAGES / f"{number}.jpg"), do=SET.get))
        try:
            read_captions(_caption_file(root, number))
        except BadImage as error:
            absent.append(error)
    return CheckResult(0, tuple(absent))


def _missing_files(options: MmCelebaOptions) -> tuple[Missing, ...]:
    """The data set as missing if some of its images or captions are; files are counted, not opened."""
    root, found = root_of(options.root), _image_files(options)
    texts = sum(_caption_file(root, number).is_file() for number in found)
    if (len(found), texts) == (options.images, options.images):
        return ()
    state = f"there are {len(found):,} of {options.images:,} images, and captions of {texts:,}" if found else ""
    return (SET.missing(root, state),)


def _image_files(options: MmCelebaOptions) -> dict[int, Path]:
    """The image files by number, sorted; files with other names are ignored. NotReady for two files of one number."""
    folder = root_of(options.root) / IMAGES
    if not folder.is_dir():
        return {}
    files = [file for file in files_in(folder) if file.suffix.lower() in SUFFIXES and file.stem.isdecimal()]
    numbered: dict[int, Path] = {}
    for file in files:
        if (first := numbered.setdefault(int(file.stem), file)) != file:
            raise NotReady("two files have the same number", where=str(file), got=str(first), do="remove one of them")
    return {number: numbered[number] for number in sorted(numbered) if number < options.images}


def _caption_file(root: Path, number: int) -> Path:
    return root / TEXTS / f"{number}.txt"
