"""Clips of video files: which frames are read, and the errors for broken files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zigma_bench.data.reading.video import Cut, VideoClips, read_clips
from zigma_bench.errors import BadImage

av = pytest.importorskip("av")


@pytest.fixture
def video(tmp_path: Path) -> Callable[..., Path]:
    """Makes a video whose frame i is grey 5 i on the left half and white on the right, without loss."""

    def make(name: str = "a.avi", frames: int = 40, height: int = 24, width: int = 32, codec: str = "ffv1") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number in range(frames):
                pixels = np.full((height, width, 3), 255, np.uint8)
                pixels[:, : width // 2] = 5 * number
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        return path

    return make


def numbers(clip: np.ndarray) -> list[int]:
    """The numbers of a clip's frames in the video."""
    return [round(float(frame[:, :, 1].mean()) / 5) for frame in clip]


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (Cut(4, 1, 1), [[18, 19, 20, 21]]),
        (Cut(4, 3, 1), [[15, 18, 21, 24]]),
        (Cut(4, 1, 3), [[0, 1, 2, 3], [18, 19, 20, 21], [36, 37, 38, 39]]),
        (Cut(40, 1, 2), [list(range(40))] * 2),
        (Cut(2, 39, 1), [[0, 39]]),
    ],
)
def test_a_clip_is_of_the_frames_that_its_cut_says(video: Callable[..., Path], cut: Cut, expected: list) -> None:
    clips = read_clips(video(), cut, range(cut.clips), resolution=12)
    assert clips.shape == (cut.clips, cut.frames, 3, 12, 12) and clips.dtype == np.uint8
    assert [numbers(clip) for clip in clips] == expected


def test_frames_are_scaled_and_cut_as_images_are(video: Callable[..., Path]) -> None:
    clip = read_clips(video(height=24, width=48), Cut(2, 1, 1), [0], resolution=12)[0]
    assert (clip[:, :, :, :5] < 130).all() and (clip[:, :, :, 7:] > 250).all()  # the middle of the width is the edge


def test_clips_of_several_files_by_index(video: Callable[..., Path]) -> None:
    files = (video("a.avi", 20), video("b.avi", 40))
    clips = VideoClips(files, np.array([3, 7]), Cut(2, 1, 2), 8)
    assert len(clips) == 4
    assert [numbers(clip) for clip in clips.take([3, 0, 2, 1])] == [[38, 39], [0, 1], [0, 1], [18, 19]]
    assert clips.labels([0, 1, 2, 3]).tolist() == [3, 3, 7, 7]


def test_a_broken_video_is_named(video: Callable[..., Path], tmp_path: Path) -> None:
    whole = video("whole.avi", codec="mpeg4")
    data = whole.read_bytes()
    cut, text, empty, damaged = (tmp_path / f"{name}.avi" for name in ("cut", "text", "empty", "damaged"))
    cut.write_bytes(data[: len(data) // 2])
    text.write_text("no video " * 50)
    empty.write_bytes(b"")
    start = data.index(b"movi")
    damaged.write_bytes(data[: start + 600] + bytes([0xA5]) * 300 + data[start + 900 :])
    assert read_clips(whole, Cut(4, 1, 1), [0], resolution=8).shape == (1, 4, 3, 8, 8)
    for path in (cut, text, empty, damaged, tmp_path / "absent.avi"):
        with pytest.raises(BadImage, match=path.name):
            read_clips(path, Cut(4, 1, 1), [0], resolution=8)


def test_a_short_video_says_how_many_frames_a_clip_needs(video: Callable[..., Path]) -> None:
    with pytest.raises(BadImage, match=r"too short; expected at least 46 frames \(16 with a stride of 3\); got 40"):
        read_clips(video(), Cut(16, 3, 1), [0], resolution=8)
