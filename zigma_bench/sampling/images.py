"""Read images for the metrics: a folder, a zip of images, ADM's .npz, or the samples of zigma-bench itself.

A folder includes its subfolders, sorted by name. Images are decoded on access. All have the same size, and are RGB if
any of them has colour. A folder of videos or animations holds clips (clips.py).
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

from zigma_bench.data.images import ArrayImages, Images, Pixels
from zigma_bench.data.reading.decode import FORMATS, flat_image
from zigma_bench.data.reading.files import visible_files_below
from zigma_bench.data.reading.folder import ARCHIVES, LEFT_OUT, OTHER_IMAGES, check_none_passed_over
from zigma_bench.data.reading.folder import IMAGES as SUFFIXES
from zigma_bench.data.sources.provided import read_image
from zigma_bench.errors import BadImage, NotReady, UsageError
from zigma_bench.sampling.clips import ANIMATIONS, VIDEOS, is_clip, open_clips

SAMPLES, DRAWN = "samples.npy", "images"  # written by the sample stage and by `sample MODEL`
ARRAY = "arr_0"

GRAY = ("1", "L", "I;16", "I;16B", "I", "LA")


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images by name, decoded on access; `read(name)` returns the bytes of a file."""

    names: Sequence[str]
    read: Callable[[str], bytes]
    where: str
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return np.stack([self._pixels(self.names[int(index)]) for index in indices])

    def _pixels(self, name: str) -> Pixels:
        image = flat_image(self.read(name), _join_name(self.where, name))
        _check_size(image.size, self.shape, _join_name(self.where, name))
        pixels = np.asarray(image.convert("RGB" if self.shape[0] == 3 else "L"))
        return np.ascontiguousarray(pixels[None] if self.shape[0] == 1 else pixels.transpose(2, 0, 1))


def open_images(path: Path) -> Images:
    """Open the images of a folder, .zip or .npz, or the clips of a folder or .npz.

    Raises NotReady if the path doesn't exist, and UsageError if it contains no images, both images and clips, or an
    array that isn't uint8 [N, (T,) H, W, 3] or [N, (T,) H, W, 1]. Raises BadImage, with the file name, for a broken
    image, an image of a different size, or a clip of a different length.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise NotReady("no such file or folder", where=str(path), do="give a folder, a .zip or a .npz of images")
    if path.suffix == ".npz":
        return _open_npz(path)
    if path.suffix == ".zip":
        return _open_zip(path)
    raise UsageError("not a set of images", where=str(path), expected="a folder, a .zip or a .npz")


def _open_folder(path: Path) -> Images:
    if (path / SAMPLES).is_file():
        return _open_npy(path / SAMPLES)
    drawn = any((path / DRAWN / f"0000000.{kind}").is_file() for kind in ("png", "webp"))
    folder = path / DRAWN if drawn else path
    root = folder.absolute()
    listed = visible_files_below(folder).files
    check_none_passed_over(listed, (*SUFFIXES, *VIDEOS), "quality")
    files = [Path(file) for file in listed if file.lower().endswith((*SUFFIXES, *VIDEOS))]
    names = [str(file.relative_to(root)) for file in files]
    clips = [is_clip(file) for file in files]
    if True in clips and False in clips:
        raise UsageError(
            "the folder contains clips and single images", where=str(folder), expected="either clips or images",
            got=f"the clip {names[clips.index(True)]} and the image {names[clips.index(False)]}",
            do="move the clips or the images to another folder",
        )  # fmt: skip
    if any(clips):
        return open_clips(files)
    return _open_encoded(names, lambda name: read_image(root / name), str(folder))


def _open_zip(path: Path) -> Images:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"the zip can't be read: {error}", where=str(path)) from None
    shown = [item.filename for item in archive.infolist() if not (item.is_dir() or _hidden(Path(item.filename)))]
    names = sorted(name for name in shown if Path(name).suffix.lower() in SUFFIXES)
    _check_members(shown, path)
    if videos := [name for name in shown if Path(name).suffix.lower() in VIDEOS]:
        raise UsageError("clips in a zip can't be read", where=str(path), got=videos[0], do="unpack it into a folder")

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
            raise BadImage(f"the file can't be unpacked: {error}", where=_join_name(str(path), name)) from None

    return _open_encoded(names, read, str(path))


def _check_members(names: Sequence[str], path: Path) -> None:
    """UsageError for duplicate names in the zip, BadImage for an image in an unsupported format."""
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UsageError(
            "the zip contains two files of the same name", where=_join_name(str(path), twice[0]), do="rename one"
        )
    for name in names:
        if name.lower().endswith((*OTHER_IMAGES, *ARCHIVES)):
            raise BadImage(
                "quality can't read this file", where=_join_name(str(path), name),
                expected=f"files that end in {', '.join(SUFFIXES)}", do="convert it to PNG, or remove it",
            )  # fmt: skip


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") or part in LEFT_OUT for part in name.parts)


def _open_encoded(names: Sequence[str], read: Callable[[str], bytes], where: str) -> EncodedImages:
    """Check that the headers of all files have the same size, and return the images."""
    if not names:
        kinds = ", ".join((*SUFFIXES, *VIDEOS))
        raise UsageError("there are no images and no clips", where=where, expected=f"files that end in {kinds}")
    sizes, gray = [], True
    for name in names:
        size, mode, frames = _read_header(read(name), _join_name(where, name))
        if frames > 1 and Path(name).suffix.lower() in ANIMATIONS:  # only in a zip; open_clips reads a folder
            raise UsageError(
                "clips in a zip can't be read", where=_join_name(where, name), do="unpack it into a folder"
            )
        sizes.append(size)
        gray &= mode in GRAY
    width, height = sizes[0]
    shape = (1 if gray else 3, height, width)
    for name, size in zip(names, sizes, strict=True):
        _check_size(size, shape, _join_name(where, name), first=_join_name(where, names[0]))
    return EncodedImages(names, read, where, shape)


def _read_header(data: bytes, where: str) -> tuple[tuple[int, int], str, int]:
    """The size after EXIF rotation, the mode and the number of frames, from the header.

    If the header can't be read, the strict decoder runs and reports the fault.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
            return (image.size[::-1] if turned else image.size), image.mode, getattr(image, "n_frames", 1)
    except Exception:  # Pillow raises many types; the strict decoder reports the fault
        whole = flat_image(data, where)
        return whole.size, whole.mode, 1


def _check_size(size: tuple[int, int], shape: tuple[int, int, int], where: str, *, first: str | None = None) -> None:
    if size != (shape[2], shape[1]):
        raise BadImage(
            "the image has a different size" + (" from the first one" if first else ""), where=where,
            expected=f"{shape[2]} x {shape[1]} pixels" + (f", as in {first}" if first else ""),
            got=f"{size[0]} x {size[1]}", do="resize all images to one size",
        )  # fmt: skip


def contains_images(path: Path) -> bool:
    """Whether a readable .npz contains images."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
        return ARRAY in held


def _open_npz(path: Path) -> Images:
    """Read ADM's layout: the array `arr_0`, uint8 [N, H, W, C], or [N, T, H, W, C] for clips."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            if ARRAY not in held:
                raise UsageError(
                    f"the .npz has no array {ARRAY}", where=str(path), expected="uint8 [N, H, W, 3] (ADM's layout)",
                    got=", ".join(held.files) or "nothing", do="save it with np.savez(path, images)",
                )  # fmt: skip
            array = held[ARRAY]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"the .npz can't be read: {error}", where=str(path)) from None
    return _array_images(array, str(path), channels_at=-1)


def _open_npy(path: Path) -> Images:
    """Read the samples of a cell: uint8 [N, (T,) C, H, W]."""
    try:
        return _array_images(np.load(path, allow_pickle=False), str(path), channels_at=-3)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"the samples can't be read: {error}", where=str(path)) from None


def _array_images(array: npt.NDArray[Any], where: str, *, channels_at: int) -> Images:
    if array.dtype != np.uint8 or array.ndim not in (4, 5) or array.shape[channels_at] not in (1, 3) or not array.size:
        layout = "[N, (T,) H, W, C]" if channels_at == -1 else "[N, (T,) C, H, W]"
        raise UsageError(
            "not an array of images", where=where, expected=f"uint8 {layout} with 1 or 3 channels",
            got=f"{array.dtype} {list(array.shape)}",
        )  # fmt: skip
    return ArrayImages(np.moveaxis(array, channels_at, -3))


def _join_name(where: str, name: str) -> str:
    return f"{where}/{name}"
