"""Clips of digits: the digit moves in a straight line and stays inside the field."""

from __future__ import annotations

import numpy as np
import pytest

from zigma_bench.data.images import Frames, labels_of
from zigma_bench.data.sources.digits import all_digits
from zigma_bench.data.sources.moving_digits import FASTEST, describe, load, motion_of
from zigma_bench.data.sources.options import MovingDigitsOptions
from zigma_bench.errors import UsageError

SMALL = MovingDigitsOptions(frames=5, resolution=13, clips=40, validation=10)


def test_a_clip_contains_its_digit_in_every_frame_and_nothing_else() -> None:
    facts, splits = describe(SMALL), load(SMALL)
    assert facts.shape == (5, 1, 13, 13) and facts.held_out == len(splits.validation) == 10
    still = {
        image.tobytes(): int(label) for image, label in zip(all_digits().pixels, all_digits().classes, strict=True)
    }
    clips = splits.train.take(range(30))
    assert clips.shape == (30, 5, 1, 13, 13)
    for clip, label in zip(clips, labels_of(splits.train, range(30)), strict=True):
        inks = {int(frame.sum()) for frame in clip}
        assert len(inks) == 1  # no pixel of it is lost at an edge
        windows = {
            clip[0, :, top : top + 8, left : left + 8].tobytes() for top in range(6) for left in range(6)
        } & still.keys()
        assert label in {still[window] for window in windows}


def test_a_digit_goes_straight_on_and_turns_at_the_edges() -> None:
    for index in range(50):
        path = motion_of(index, frames=40, room=5)
        steps = np.abs(np.diff(path, axis=0))
        assert path.min() >= 0 and path.max() <= 5
        assert steps.max() <= FASTEST and steps.any()
        assert np.array_equal(path, motion_of(index, frames=40, room=5))
        assert np.array_equal(path[:7], motion_of(index, frames=7, room=5))
    assert len({motion_of(index, frames=3, room=5).tobytes() for index in range(50)}) > 40


def test_frames_are_the_clips_taken_apart() -> None:
    clips = load(SMALL).train
    frames = Frames(clips, 5)
    assert len(frames) == 150
    whole = clips.take(range(30)).reshape(-1, 1, 13, 13)
    assert np.array_equal(frames.take(range(150)), whole)
    assert np.array_equal(frames.take([149, 0, 7, 7]), whole[[149, 0, 7, 7]])


def test_options_without_images_are_refused_and_the_contract_holds() -> None:
    from zigma_bench.testing import check_dataset

    with pytest.raises(UsageError, match="leaves no training clip; expected 1 to 39; got 40"):
        describe(MovingDigitsOptions(clips=40, validation=40))
    assert check_dataset("moving-digits", frames=3, resolution=10, clips=40, validation=20).ok
