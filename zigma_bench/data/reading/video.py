"""Clips read from video files by PyAV: stated frames, stride and size, and always the same ones.

A video is decoded whole, so that a broken one is found and its frames are counted, not believed. Its clips begin at
frames evenly spread from the first to the last that leaves room for a clip; a single clip is the one in the middle.
Each frame is then scaled and cut as an image is.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import Labels, Pixels
from zigma_bench.errors import BadImage, NotReady
from zigma_bench.plugins.registry import Missing
from zigma_bench.system.device import cores

MEMORY_BYTES = 2**30  # a split whose pixels fit is decoded once and kept
MAX_FRAMES = 20_000  # of one video, which is held in memory while its clips are cut out
LOST = 0.1  # the share of the frames that its head tells of which may be missing: old encoders count one or two more
MEND = "replace or remove the video"
INSTALL = 'install PyAV: pip install "zigma-bench[video]"'


def pyav_missing() -> tuple[Missing, ...]:
    """What to do where PyAV is not installed; it is not imported."""
    return (
        () if importlib.util.find_spec("av") else (Missing("PyAV, which reads video files, is not installed", INSTALL),)
    )


@dataclass(frozen=True)
class Cut:
    """How clips are cut: `clips` of a video, each of `frames` frames that lie `stride` apart."""

    frames: int
    stride: int
    clips: int

    @property
    def span(self) -> int:
        """The frames that a clip reaches over."""
        return (self.frames - 1) * self.stride + 1

    def starts(self, length: int) -> list[int]:
        """The first frame of every clip of a video of `length` frames."""
        room = length - self.span
        if self.clips == 1:
            return [room // 2]
        return [round(place * room / (self.clips - 1)) for place in range(self.clips)]


def read_frames(path: Path) -> list[Any]:
    """All frames of a video, as PyAV has them; BadImage, which names the file, where it can't be decoded whole."""
    if missing := pyav_missing():
        raise NotReady(missing[0].what, where=str(path), do=missing[0].do)
    import av

    frames: list[Any] = []
    told = 0
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore") as container:
            if not container.streams.video:
                raise BadImage("the file holds no video", where=str(path), do=MEND)
            stream = container.streams.video[0]
            told = stream.frames
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise BadImage(f"frame {len(frames)} of the video is broken", where=str(path), do=MEND)
                frames.append(frame)
                if len(frames) > MAX_FRAMES:
                    raise BadImage(
                        "the video is too long", where=str(path), expected=f"at most {MAX_FRAMES:,} frames",
                        do="cut it into shorter ones",
                    )  # fmt: skip
    except (av.error.FFmpegError, OSError) as error:
        raise BadImage(f"the video can't be decoded ({error})", where=str(path), do=MEND) from error
    if not frames or len(frames) < told * (1 - LOST):
        raise BadImage(
            "the video is cut off", where=str(path), expected=f"{told or 'some'} frames, as its head says",
            got=len(frames), do=MEND,
        )  # fmt: skip
    return frames


def read_clips(path: Path, cut: Cut, wanted: Sequence[int], *, resolution: int) -> Pixels:
    """Some of a video's clips, uint8 [n, frames, 3, resolution, resolution]; BadImage where it is too short."""
    from zigma_bench.data.reading.decode import fitted  # brings Pillow, which a description needs not

    frames = read_frames(path)
    if len(frames) < cut.span:
        raise BadImage(
            "the video is too short", where=str(path), do="take fewer frames or a smaller stride, or remove it",
            expected=f"at least {cut.span} frames ({cut.frames} that lie {cut.stride} apart)", got=len(frames),
        )  # fmt: skip
    starts = cut.starts(len(frames))
    clips = np.empty((len(wanted), cut.frames, 3, resolution, resolution), np.uint8)
    for clip, number in zip(clips, wanted, strict=True):
        for place in range(cut.frames):
            image = frames[starts[number] + place * cut.stride].to_image()
            clip[place] = np.asarray(fitted(image, resolution, "short-side-center-crop", str(path))).transpose(2, 0, 1)
    return clips


@dataclass(frozen=True)
class VideoClips:
    """The clips of video files: those of the first file, then those of the second, each with its file's class.

    If all pixels fit in MEMORY_BYTES the first `take` decodes and keeps them all.
    """

    files: tuple[Path, ...]
    classes: Labels
    cut: Cut
    resolution: int

    def __len__(self) -> int:
        return len(self.files) * self.cut.clips

    def labels(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Labels:
        return self.classes[np.asarray(indices, dtype=np.int64) // self.cut.clips]

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pixels:
        wanted = np.arange(len(self))[np.asarray(indices, dtype=np.int64)]
        return self._decoded(wanted) if self.decodes else self._all[wanted]

    @property
    def decodes(self) -> bool:
        """Whether the clips are too many to be kept."""
        return len(self) * self.cut.frames * 3 * self.resolution**2 > MEMORY_BYTES

    @cached_property
    def _all(self) -> Pixels:
        return self._decoded(np.arange(len(self)))

    def _decoded(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Each file is decoded once, by a thread, for all of its clips that are wanted."""
        clips = np.empty((len(indices), self.cut.frames, 3, self.resolution, self.resolution), np.uint8)
        files = indices // self.cut.clips

        def fill(file: int) -> None:
            rows = np.flatnonzero(files == file)
            numbers = (indices[rows] % self.cut.clips).tolist()
            clips[rows] = read_clips(self.files[file], self.cut, numbers, resolution=self.resolution)

        with ThreadPoolExecutor(_threads()) as pool:
            list(pool.map(fill, np.unique(files).tolist()))
        return clips


def _threads() -> int:
    """One a processor; one alone in a process that takes clips ahead of training, for others like it stand beside."""
    return cores() if multiprocessing.parent_process() is None else 1
