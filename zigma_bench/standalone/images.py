"""Anybody's images as the metrics take them: a folder, a zip of images, ADM's .npz, or what this program left.

A folder's images are those of it and of the folders below, by name; they are decoded when they are taken. All have one
size, and colour if any of them has. A folder of videos or animations holds clips (clips.py).
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zigma_bench.data.decode import FORMATS, flat_image
from zigma_bench.data.files import below
from zigma_bench.data.folder import ARCHIVES, LEFT_OUT, OTHER_IMAGES, check_none_passed_over
from zigma_bench.data.folder import IMAGES as SUFFIXES
from zigma_bench.data.provided import read_image
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.images import ArrayImages, Images, Pixels
from zigma_bench.standalone.clips import ANIMATIONS, VIDEOS, is_clip, open_clips

SAMPLES, DRAWN = "samples.npy", "images"  # what a cell's stage and `sample MODEL` leave
ARRAY = "arr_0"

GRAY = ("1", "L", "I;16", "I;16B", "I", "LA")


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images by name, decoded as they are taken; `read(name)` gives a file's bytes."""

    names: Sequence[str]
    read: Callable[[str], bytes]
    where: str
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return np.stack([self._pixels(self.names[int(index)]) for index in indices])

    def _pixels(self, name: str) -> Pixels:
        image = flat_image(self.read(name), _named(self.where, name))
        _check_size(image.size, self.shape, _named(self.where, name))
        pixels = np.asarray(image.convert("RGB" if self.shape[0] == 3 else "L"))
        return np.ascontiguousarray(pixels[None] if self.shape[0] == 1 else pixels.transpose(2, 0, 1))


def open_images(path: Path) -> Images:
    """The images of a folder, .zip or .npz, or the clips of a folder or .npz.

    Raises NotReady for what is not there, UsageError for what holds no images, images and clips, or another array than
    uint8 [N, (T,) H, W, 3] or [N, (T,) H, W, 1], and BadImage, which names the file, for an image that is broken or of
    another size, and a clip of another length.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise NotReady("there are no images", where=str(path), do="give a folder, a .zip or a .npz of images")
    if path.suffix == ".npz":
        return _of_npz(path)
    if path.suffix == ".zip":
        return _of_zip(path)
    raise UsageError("this is no set of images", where=str(path), expected="a folder, a .zip or a .npz")


def _of_folder(path: Path) -> Images:
    if (path / SAMPLES).is_file():
        return _of_npy(path / SAMPLES)
    drawn = any((path / DRAWN / f"0000000.{kind}").is_file() for kind in ("png", "webp"))
    folder = path / DRAWN if drawn else path
    root = folder.absolute()
    listed = below(folder).files
    check_none_passed_over(listed, (*SUFFIXES, *VIDEOS), "quality")
    files = [Path(file) for file in listed if file.lower().endswith((*SUFFIXES, *VIDEOS))]
    names = [str(file.relative_to(root)) for file in files]
    clips = [is_clip(file) for file in files]
    if True in clips and False in clips:
        raise UsageError(
            "the folder holds clips and single images", where=str(folder), expected="one of both",
            got=f"the clip {names[clips.index(True)]} and the image {names[clips.index(False)]}",
            do="move one of both out of it",
        )  # fmt: skip
    if any(clips):
        return open_clips(files)
    return _encoded(names, lambda name: read_image(root / name), str(folder))


def _of_zip(path: Path) -> Images:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"the zip can't be read: {error}", where=str(path)) from None
    shown = [item.filename for item in archive.infolist() if not (item.is_dir() or _hidden(Path(item.filename)))]
    names = sorted(name for name in shown if Path(name).suffix.lower() in SUFFIXES)
    _check_members(shown, path)
    if videos := [name for name in shown if Path(name).suffix.lower() in VIDEOS]:
        raise UsageError("clips are not read from a zip", where=str(path), got=videos[0], do="unpack it into a folder")

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
            raise BadImage(f"the file can't be unpacked: {error}", where=_named(str(path), name)) from None

    return _encoded(names, read, str(path))


def _check_members(names: Sequence[str], path: Path) -> None:
    """Raise UsageError if a name is listed twice, and BadImage for an unsupported image format."""
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UsageError("the zip holds two files of one name", where=_named(str(path), twice[0]), do="rename one")
    for name in names:
        if name.lower().endswith((*OTHER_IMAGES, *ARCHIVES)):
            raise BadImage(
                "quality would pass over this file", where=_named(str(path), name),
                expected=f"files that end in {', '.join(SUFFIXES)}", do="convert it to PNG, or remove it",
            )  # fmt: skip


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") or part in LEFT_OUT for part in name.parts)


def _encoded(names: Sequence[str], read: Callable[[str], bytes], where: str) -> EncodedImages:
    """The set, once the head of every file says the same size."""
    if not names:
        kinds = ", ".join((*SUFFIXES, *VIDEOS))
        raise UsageError("there are no images and no clips", where=where, expected=f"files that end in {kinds}")
    sizes, gray = [], True
    for name in names:
        size, mode, frames = _head(read(name), _named(where, name))
        if frames > 1 and Path(name).suffix.lower() in ANIMATIONS:  # of a zip: those of a folder are clips
            raise UsageError("clips are not read from a zip", where=_named(where, name), do="unpack it into a folder")
        sizes.append(size)
        gray &= mode in GRAY
    width, height = sizes[0]
    shape = (1 if gray else 3, height, width)
    for name, size in zip(names, sizes, strict=True):
        _check_size(size, shape, _named(where, name), first=_named(where, names[0]))
    return EncodedImages(names, read, where, shape)


def _head(data: bytes, where: str) -> tuple[tuple[int, int], str, int]:
    """Upright size, mode and number of frames.

    An image whose head can't be read is decoded, which says what is wrong.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
            return (image.size[::-1] if turned else image.size), image.mode, getattr(image, "n_frames", 1)
    except Exception:  # whatever Pillow runs into, the strict decoder names it
        whole = flat_image(data, where)
        return whole.size, whole.mode, 1


def _check_size(size: tuple[int, int], shape: tuple[int, int, int], where: str, *, first: str | None = None) -> None:
    if size != (shape[2], shape[1]):
        raise BadImage(
            "the image has another size", where=where,
            expected=f"{shape[2]} x {shape[1]} pixels" + (f", as {first}" if first else ""),
            got=f"{size[0]} x {size[1]}", do="bring all images to one size",
        )  # fmt: skip


def holds_images(path: Path) -> bool:
    """Whether a .npz that can be read holds images."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
        return ARRAY in held


def _of_npz(path: Path) -> Images:
    """ADM's layout: uint8 [N, H, W, C] under arr_0; of clips [N, T, H, W, C]."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            if ARRAY not in held:
                raise UsageError(
                    f"the .npz holds no {ARRAY}", where=str(path), expected="uint8 [N, H, W, 3] (ADM's layout)",
                    got=", ".join(held.files) or "nothing", do="save it with np.savez(path, images)",
                )  # fmt: skip
            array = held[ARRAY]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"the .npz can't be read: {error}", where=str(path)) from None
    return _array(array, str(path), channels_at=-1)


def _of_npy(path: Path) -> Images:
    """What a cell's sample stage left: uint8 [N, (T,) C, H, W]."""
    try:
        return _array(np.load(path, allow_pickle=False), str(path), channels_at=-3)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"the samples can't be read: {error}", where=str(path)) from None


def _array(array: npt.NDArray[Any], where: str, *, channels_at: int) -> Images:
    if array.dtype != np.uint8 or array.ndim not in (4, 5) or array.shape[channels_at] not in (1, 3) or not array.size:
        layout = "[N, (T,) H, W, C]" if channels_at == -1 else "[N, (T,) C, H, W]"
        raise UsageError(
            "these are no images", where=where, expected=f"uint8 {layout} of 1 or 3 channels",
            got=f"{array.dtype} {list(array.shape)}",
        )  # fmt: skip
    return ArrayImages(np.moveaxis(array, channels_at, -3))


def _named(where: str, name: str) -> str:
    return f"{where}/{name}"
