"""MS-COCO: photographs with about five captions each, of which one is drawn at each use; its own validation split."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zigma_bench.data.images import Captions, Counts, Images, Splits
from zigma_bench.data.reading.files import source_fingerprint
from zigma_bench.data.reading.folder import check_none_passed_over, files_in
from zigma_bench.data.sources.options import CocoOptions
from zigma_bench.data.sources.provided import FileRows, Provided, file_hashes, image_parts, root_of
from zigma_bench.errors import BadImage, NotReady, ZigmaBenchError
from zigma_bench.plugins.registry import DataFacts, Missing

if TYPE_CHECKING:
    from zigma_bench.data.checks.dataset import CheckResult

COUNTS = {"2014": {"train": 82_783, "val": 40_504}, "2017": {"train": 118_287, "val": 5_000}}


@dataclass(frozen=True)
class Side:
    """One split of one edition: its folder of images, its file of captions, and the required number of images."""

    images: Path
    texts: Path
    count: int


def describe(options: CocoOptions) -> DataFacts:
    """The facts of the data set, from the names and contents of its files."""
    train, val = _sides(options)
    files = [file for side in (train, val) for file in (side.texts, *sorted(_image_files(side)))]
    identity = source_fingerprint(
        "coco", {"resolution": options.resolution, "files": file_hashes(files, root_of(options.root))}
    )
    side = options.resolution
    return DataFacts(3, side, side, identity, _missing_files(options), val.count, captions=True, crops=True)


def load(options: CocoOptions) -> Splits:
    """The photographs as uint8 [N, 3, resolution, resolution] with their captions; NotReady if some are missing."""
    for missing in describe(options).missing:
        raise NotReady(f"{missing.what} is missing", where="data: coco", do=missing.do)
    train, val = (_load_images(side, options.resolution) for side in _sides(options))
    return Splits(train, val)


def count(options: CocoOptions) -> Counts:
    """The numbers of training and held-out photographs."""
    train, val = _sides(options)
    return Counts(train.count, val.count)


def parts(options: CocoOptions) -> Iterator[Callable[[], CheckResult]]:
    """The parts of a check: captions without images, images without captions, and every image."""
    for side in _sides(options):
        if side.texts.is_file():
            yield functools.partial(_check_captions, side)
        if files := _image_files(side):
            yield from image_parts(sorted(files), options.resolution)


def read_captions(file: Path) -> dict[str, Captions]:
    """The captions of each image by file name, sorted; NotReady for an invalid file of captions."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        names = {item["id"]: str(item["file_name"]) for item in found["images"]}
        texts: dict[str, list[str]] = {name: [] for name in sorted(names.values())}
        for item in found["annotations"]:
            texts[names[item["image_id"]]].append(str(item["caption"]).strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotReady(
            f"the file of captions can't be read ({type(error).__name__}: {error})", where=str(file),
            expected="JSON with images (id, file_name) and annotations (image_id, caption)", do="get it again",
        ) from error  # fmt: skip
    return {name: tuple(caption for caption in captions if caption) for name, captions in texts.items()}


def _load_images(side: Side, resolution: int) -> Images:
    from zigma_bench.data.latents.encoded import DecodedImages

    texts = read_captions(side.texts)
    for problem in _caption_problems(side, texts):
        raise problem
    rows = FileRows(tuple(side.images / name for name in texts), str(side.images))
    return DecodedImages(rows, 3, resolution, "short-side-center-crop", texts=list(texts.values()))


def _check_captions(side: Side) -> CheckResult:
    from zigma_bench.data.checks.dataset import CheckResult

    return CheckResult(0, tuple(_caption_problems(side, read_captions(side.texts))))


def _caption_problems(side: Side, texts: dict[str, Captions]) -> Iterator[ZigmaBenchError]:
    """Images without captions, and captions without images."""
    existing = {file.name for file in _image_files(side)}
    for name, captions in texts.items():
        if Path(name).name != name:  # a downloaded file must not make us read other files of this machine
            yield BadImage("the file of captions points outside the folder", where=str(side.texts), got=name)
        elif name not in existing:
            yield BadImage("the image is missing, although it has captions", where=str(side.images / name))
        elif not captions:
            yield BadImage("the image has no captions", where=f"{side.texts}, {name}")
    for name in sorted(existing - set(texts)):
        do = f"remove it, or get {side.texts.name} again, which does not list it"
        yield BadImage("the image has no captions", where=str(side.images / name), do=do)


def _missing_files(options: CocoOptions) -> tuple[Missing, ...]:
    root, sides = root_of(options.root), _sides(options)
    counted = [(len(_image_files(side)), side) for side in sides]
    if all(count == side.count and side.texts.is_file() for count, side in counted):
        return ()
    state = [f"there are {count:,} of {side.count:,} images in {side.images.name}" for count, side in counted if count]
    state += [f"{side.texts.name} is missing" for count, side in counted if count and not side.texts.is_file()]
    return (_provided_set(options).missing(root, ", ".join(state)),)


def _provided_set(options: CocoOptions) -> Provided:
    year = options.edition
    folders = " and ".join(f"{name}{year}/*.jpg" for name in COUNTS[year])
    files = " and ".join(f"annotations/captions_{name}{year}.json" for name in COUNTS[year])
    return Provided(
        "coco",
        f"MS-COCO {year} ({COUNTS[year]['train']:,} photographs for training and {COUNTS[year]['val']:,} for "
        "validation with captions; captions CC BY 4.0, photographs subject to the terms of Flickr)",
        f"get train{year}.zip, val{year}.zip and the annotations from cocodataset.org",
        f"{folders}, {files}",
    )


def _sides(options: CocoOptions) -> tuple[Side, Side]:
    root, counts = root_of(options.root), COUNTS[options.edition]
    wanted = {"train": options.train_images, "val": options.validation_images}
    train, val = (
        Side(
            root / f"{name}{options.edition}",
            root / "annotations" / f"captions_{name}{options.edition}.json",
            wanted[name] or counts[name],
        )
        for name in ("train", "val")
    )
    return train, val


def _image_files(side: Side) -> list[Path]:
    """The photographs of a side; NotReady for an image of another format, which would be skipped."""
    if not side.images.is_dir():
        return []
    files = files_in(side.images)
    check_none_passed_over(map(str, files), (".jpg",), "coco")
    return [file for file in files if file.suffix.lower() == ".jpg"]
