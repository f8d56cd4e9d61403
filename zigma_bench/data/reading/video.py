"""Clips from video files, read with PyAV; the number of frames, the stride and the position of clips are fixed.

A video is decoded completely, to find broken videos and to count its frames. The starts of its clips are spread evenly
from the first to the last possible frame; a single clip is the one in the middle. Each frame is resized and cropped
like an image.
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
from zigma_bench.system.device import core_count

MEMORY_BYTES = 2**30  # a split of at most this size is decoded once and stays in memory
MAX_FRAMES = 20_000  # of one video, which is in memory while its clips are extracted
MOST_MISSING = 0.1  # tolerated share of missing frames, because old encoders state one or two more in the header
MEND = "replace or remove the video"
INSTALL = 'install PyAV: pip install "zigma-bench[video]"'


def pyav_missing() -> tuple[Missing, ...]:
    """PyAV as a missing package of a plan, or nothing if it is installed; PyAV is not imported."""
    return (
        () if importlib.util.find_spec("av") else (Missing("PyAV, which reads video files, is not installed", INSTALL),)
    )


@dataclass(frozen=True)
class Cut:
    """How clips are extracted: `clips` clips per video, each of `frames` frames at a distance of `stride`."""

    frames: int
    stride: int
    clips: int

    @property
    def span(self) -> int:
        """The number of frames from the first to the last frame of a clip."""
        return (self.frames - 1) * self.stride + 1

    def starts(self, length: int) -> list[int]:
        """The first frame of every clip of a video of `length` frames."""
        room = length - self.span
        if self.clips == 1:
            return [room // 2]
        return [round(place * room / (self.clips - 1)) for place in range(self.clips)]


def read_frames(path: Path) -> list[Any]:
    """All frames of a video, as PyAV objects; BadImage, naming the file, if it can't be decoded completely."""
    if missing := pyav_missing():
        raise NotReady(missing[0].what, where=str(path), do=missing[0].do)
    import av

    frames: list[Any] = []
    stated = 0
    try:
        with av.open(str(path), mode="r", metadata_errors="ignore") as container:
            if not container.streams.video:
                raise BadImage("the file contains no video", where=str(path), do=MEND)
            stream = container.streams.video[0]
            stated = stream.frames
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise BadImage(f"frame {len(frames)} of the video is broken", where=str(path), do=MEND)
                frames.append(frame)
                if len(frames) > MAX_FRAMES:
                    raise BadImage(
                        "the video is too long", where=str(path), expected=f"at most {MAX_FRAMES:,} frames",
                        do="split it into shorter ones",
                    )  # fmt: skip
    except (av.error.FFmpegError, OSError) as error:
        raise BadImage(f"the video can't be decoded ({error})", where=str(path), do=MEND) from error
    if not frames or len(frames) < stated * (1 - MOST_MISSING):
        raise BadImage(
            "the video is truncated", where=str(path), expected=f"{stated or 'some'} frames, as its header states",
            got=len(frames), do=MEND,
        )  # fmt: skip
    return frames


def read_clips(path: Path, cut: Cut, wanted: Sequence[int], *, resolution: int) -> Pixels:
    """The clips `wanted` of a video, uint8 [n, frames, 3, resolution, resolution]; BadImage if it is too short."""
    from zigma_bench.data.reading.decode import fit_to_square  # imports Pillow; describe() must not

    frames = read_frames(path)
    if len(frames) < cut.span:
        raise BadImage(
            "the video is too short", where=str(path), do="use fewer frames or a smaller stride, or remove it",
            expected=f"at least {cut.span} frames ({cut.frames} with a stride of {cut.stride})", got=len(frames),
        )  # fmt: skip
    starts = cut.starts(len(frames))
    clips = np.empty((len(wanted), cut.frames, 3, resolution, resolution), np.uint8)
    for clip, number in zip(clips, wanted, strict=True):
        for place in range(cut.frames):
            image = frames[starts[number] + place * cut.stride].to_image()
            clip[place] = np.asarray(fit_to_square(image, resolution, "short-side-center-crop", str(path))).transpose(
                2, 0, 1
            )
    return clips


@dataclass(frozen=True)
class VideoClips:
    """The clips of video files: those of the first file, then those of the second, each with the class of its file.

    If all pixels fit in MEMORY_BYTES, the first `take` decodes all clips and keeps them in memory.
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
        """Whether the clips are too large to stay in memory."""
        return len(self) * self.cut.frames * 3 * self.resolution**2 > MEMORY_BYTES

    @cached_property
    def _all(self) -> Pixels:
        return self._decoded(np.arange(len(self)))

    def _decoded(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Decode the clips; a thread decodes each file once for all of its clips."""
        clips = np.empty((len(indices), self.cut.frames, 3, self.resolution, self.resolution), np.uint8)
        files = indices // self.cut.clips

        def fill(file: int) -> None:
            rows = np.flatnonzero(files == file)
            numbers = (indices[rows] % self.cut.clips).tolist()
            clips[rows] = read_clips(self.files[file], self.cut, numbers, resolution=self.resolution)

        with ThreadPoolExecutor(_thread_count()) as pool:
            list(pool.map(fill, np.unique(files).tolist()))
        return clips


def _thread_count() -> int:
    """The number of threads: one per core; one in a worker process, because several of them run."""
    return core_count() if multiprocessing.parent_process() is None else 1
