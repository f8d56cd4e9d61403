"""Anybody's clips as the metrics take them: a folder of videos or animations, a file each, of one length and size.

Every file is decoded when its folder is opened, so that a broken one is named before anything is measured and its
frames are counted, not believed. Clips that fit in MEMORY_BYTES are kept. They have colour if any frame has.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from zigma_bench.data.images import ArrayImages, Images, Pixels
from zigma_bench.data.reading.video import MAX_FRAMES, MEND, read_frames
from zigma_bench.errors import BadImage
from zigma_bench.system.device import cores

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
ANIMATIONS = (".webp", ".gif")  # a clip each where they hold more than one frame; such are drawn by `sample`
MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class ClipFiles:
    """Clips that are files, decoded as they are taken: uint8 [n, T, C, H, W], of `shape` [T, C, H, W]."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        with ThreadPoolExecutor(cores()) as pool:
            clips = list(pool.map(read_clip, [self.files[int(index)] for index in indices]))
        return np.stack([clip[:, : self.shape[1]] for clip in clips])


@dataclass(frozen=True)
class InColour:
    """Clips of one channel as clips of three that are equal."""

    clips: Images

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return np.repeat(self.clips.take(indices), 3, axis=-3)


def open_clips(files: Sequence[Path]) -> Images:
    """The clips of some files; BadImage, which names the file, for one that is broken or unlike the first."""
    first = read_clip(files[0])
    keep = len(files) * first.nbytes <= MEMORY_BYTES
    kept = np.empty((len(files) if keep else 0, *first.shape), np.uint8)

    def look(number: int) -> bool:
        """Whether the clip has colour."""
        clip = read_clip(files[number])
        _check_like(clip, first, files[number], files[0])
        if keep:
            kept[number] = clip
        return not (np.array_equal(clip[:, 0], clip[:, 1]) and np.array_equal(clip[:, 0], clip[:, 2]))

    with ThreadPoolExecutor(cores()) as pool:
        channels = 3 if any(list(pool.map(look, range(len(files))))) else 1
    if keep:
        return ArrayImages(kept[:, :, :channels])
    return ClipFiles(tuple(files), (len(first), channels, *first.shape[2:]))


def is_clip(file: Path) -> bool | None:
    """Whether a file is a video, or an animation of more than one frame; None where it can't be told."""
    if file.suffix.lower() in VIDEOS:
        return True
    if file.suffix.lower() not in ANIMATIONS:
        return False
    try:
        with Image.open(file, formats=("WEBP", "GIF")) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # whatever Pillow runs into, the strict decoders name it
        return None


def read_clip(file: Path) -> Pixels:
    """All frames of a file, uint8 [T, 3, H, W]; BadImage where it can't be decoded whole."""
    frames = _animation(file) if file.suffix.lower() in ANIMATIONS else _video(file)
    for number, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise BadImage(
                f"frame {number} of the video has another size than its first", where=str(file),
                expected=_size(frames[0]), got=_size(frame), do=MEND,
            )  # fmt: skip
    return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))


def same_colour(one: Images, other: Images) -> tuple[Images, Images]:
    """Both sets of clips, one without colour as one with it where the other has; images are left as they are."""
    shapes = [images.take([0]).shape[1:] for images in (one, other)]
    if len(shapes[0]) != 4 or len(shapes[1]) != 4:
        return one, other
    grey = [shape[1] == 1 for shape in shapes]
    return (
        InColour(one) if grey == [True, False] else one,
        InColour(other) if grey == [False, True] else other,
    )


def _video(file: Path) -> list[Pixels]:
    return [np.asarray(frame.to_image()) for frame in read_frames(file)]


def _animation(file: Path) -> list[Pixels]:
    frames: list[Pixels] = []
    try:
        with Image.open(file, formats=("WEBP", "GIF")) as film:
            for frame in ImageSequence.Iterator(film):
                frames.append(np.asarray(frame.convert("RGB")))
                if len(frames) > MAX_FRAMES:
                    break
    except Exception as error:  # decoders of broken data raise whatever they run into
        what = f"the animation can't be decoded after {len(frames)} frames ({type(error).__name__}: {error})"
        raise BadImage(what, where=str(file), do=MEND) from error
    if len(frames) > MAX_FRAMES:
        raise BadImage("the animation is too long", where=str(file), expected=f"at most {MAX_FRAMES:,} frames", do=MEND)
    return frames


def _check_like(clip: Pixels, first: Pixels, file: Path, first_file: Path) -> None:
    if len(clip) != len(first):
        raise BadImage(
            "the clip has another length", where=str(file), expected=f"{len(first)} frames, as {first_file}",
            got=len(clip), do="cut all clips to one length, or remove it where it is cut off",
        )  # fmt: skip
    if clip.shape != first.shape:
        raise BadImage(
            "the clip has another size", where=str(file), expected=f"{_size(first[0])}, as {first_file}",
            got=_size(clip[0]), do="bring all clips to one size",
        )  # fmt: skip


def _size(frame: Pixels) -> str:
    """Of [H, W, 3] or [3, H, W]."""
    height, width = frame.shape[:2] if frame.shape[-1] == 3 else frame.shape[1:]
    return f"{width} x {height} pixels"
