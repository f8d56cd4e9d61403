"""Read a folder of video or animation files as clips for the metrics. All clips have the same length and size.

Opening a folder decodes every file. So a broken file is reported before anything is measured, and the frames are
counted rather than read from the header. Decoded clips stay in memory if they fit in MEMORY_BYTES. The clips are RGB
if any frame has colour.
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
from zigma_bench.system.device import core_count

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
ANIMATIONS = (".webp", ".gif")  # clips if they contain more than one frame; `sample` writes .webp
MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class ClipFiles:
    """Clips in files, decoded on access: `take` returns uint8 [n, T, C, H, W]. `shape`: [T, C, H, W]."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        with ThreadPoolExecutor(core_count()) as pool:
            clips = list(pool.map(read_clip, [self.files[int(index)] for index in indices]))
        return np.stack([clip[:, : self.shape[1]] for clip in clips])


@dataclass(frozen=True)
class InColour:
    """Grayscale clips as RGB clips: the one channel is repeated three times."""

    clips: Images

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        return np.repeat(self.clips.take(indices), 3, axis=-3)


def open_clips(files: Sequence[Path]) -> Images:
    """Open the clips of some files. BadImage, with the file name, if a clip is broken or has another shape than the
    first."""
    first = read_clip(files[0])
    in_memory = len(files) * first.nbytes <= MEMORY_BYTES
    stored = np.empty((len(files) if in_memory else 0, *first.shape), np.uint8)

    def has_colour(number: int) -> bool:
        """Check a clip, store it if there is memory, and return whether it has colour."""
        clip = read_clip(files[number])
        _check_like(clip, first, files[number], files[0])
        if in_memory:
            stored[number] = clip
        return not (np.array_equal(clip[:, 0], clip[:, 1]) and np.array_equal(clip[:, 0], clip[:, 2]))

    with ThreadPoolExecutor(core_count()) as pool:
        channels = 3 if any(list(pool.map(has_colour, range(len(files))))) else 1
    if in_memory:
        return ArrayImages(stored[:, :, :channels])
    return ClipFiles(tuple(files), (len(first), channels, *first.shape[2:]))


def is_clip(file: Path) -> bool | None:
    """Whether a file is a video or an animation of more than one frame; None if it can't be opened."""
    if file.suffix.lower() in VIDEOS:
        return True
    if file.suffix.lower() not in ANIMATIONS:
        return False
    try:
        with Image.open(file, formats=("WEBP", "GIF")) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # Pillow raises many types; the strict decoders report the fault later
        return None


def read_clip(file: Path) -> Pixels:
    """Decode all frames of a file, uint8 [T, 3, H, W]. BadImage if any part can't be decoded."""
    frames = _animation(file) if file.suffix.lower() in ANIMATIONS else _video(file)
    for number, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise BadImage(
                f"frame {number} of the video has a different size from frame 0", where=str(file),
                expected=_size(frames[0]), got=_size(frame), do=MEND,
            )  # fmt: skip
    return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))


def same_colour(one: Images, other: Images) -> tuple[Images, Images]:
    """Convert grayscale clips to RGB if the other set is RGB. Single images are returned unchanged."""
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
    except Exception as error:  # decoders raise many types for broken data
        what = f"the animation can't be decoded after {len(frames)} frames ({type(error).__name__}: {error})"
        raise BadImage(what, where=str(file), do=MEND) from error
    if len(frames) > MAX_FRAMES:
        raise BadImage("the animation is too long", where=str(file), expected=f"at most {MAX_FRAMES:,} frames", do=MEND)
    return frames


def _check_like(clip: Pixels, first: Pixels, file: Path, first_file: Path) -> None:
    if len(clip) != len(first):
        raise BadImage(
            "the clip has a different length from the first one", where=str(file),
            expected=f"{len(first)} frames, as in {first_file}", got=len(clip),
            do="cut all clips to one length, or remove this clip if it is truncated",
        )  # fmt: skip
    if clip.shape != first.shape:
        raise BadImage(
            "the clip has a different size from the first one", where=str(file),
            expected=f"{_size(first[0])}, as in {first_file}",
            got=_size(clip[0]), do="resize all clips to one size",
        )  # fmt: skip


def _size(frame: Pixels) -> str:
    """The size in words of a frame [H, W, 3] or [3, H, W]."""
    height, width = frame.shape[:2] if frame.shape[-1] == 3 else frame.shape[1:]
    return f"{width} x {height} pixels"
