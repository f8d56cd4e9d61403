"""Transforms: their effect on pixels, the same for all images of a set."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from PIL import Image

from zigma_bench.data.images import ArrayImages, Splits
from zigma_bench.data.transforms import apply as module
from zigma_bench.data.transforms.apply import TransformedImages, apply_transforms
from zigma_bench.data.transforms.built_in import (
    Blur,
    Rotate,
    ShufflePatches,
    blur,
    digest_of_shuffle,
    permutation_of,
    rotate,
    shuffle_patches,
)
from zigma_bench.errors import UsageError

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 3, 12, 12)).astype(np.uint8)


def patches(pixels, p):
    """The patches of each image, row by row, each as bytes."""
    _, _, height, width = pixels.shape
    corners = [(r, c) for r in range(0, height, p) for c in range(0, width, p)]
    return [[image[:, r : r + p, c : c + p].tobytes() for r, c in corners] for image in pixels]


@pytest.mark.parametrize("p", [1, 2, 3, 6])
def test_every_image_is_shuffled_by_the_same_permutation_of_whole_patches(p):
    options = ShufflePatches(p, seed=1)
    order = permutation_of(options, height=12, width=12)
    assert sorted(order) == list(range((12 // p) ** 2))
    for before, after in zip(patches(PIXELS, p), patches(shuffle_patches(options, PIXELS), p), strict=True):
        assert after == [before[i] for i in order]


def test_height_and_width_may_differ():
    wide = PIXELS[:, :, :4]
    after = shuffle_patches(ShufflePatches(2), wide)
    assert after.shape == wide.shape
    assert sorted(patches(after, 2)[0]) == sorted(patches(wide, 2)[0])


def test_another_seed_is_another_permutation_with_another_digest():
    shape = {"channels": 3, "height": 12, "width": 12}
    digests = {digest_of_shuffle(ShufflePatches(2, seed), **shape) for seed in range(8)}
    assert len(digests) == 8
    assert digest_of_shuffle(ShufflePatches(2, 3), **shape) in digests


def test_quarter_turns_move_pixels_counter_clockwise_and_change_none():
    turned = rotate(Rotate(90.0), PIXELS)
    assert np.array_equal(turned[:, :, 11 - 3, 5], PIXELS[:, :, 5, 3])  # what was right is above
    assert np.array_equal(rotate(Rotate(-90.0), turned), PIXELS)
    assert np.array_equal(rotate(Rotate(180.0), PIXELS), PIXELS[:, :, ::-1, ::-1])
    assert np.array_equal(rotate(Rotate(360.0), PIXELS), PIXELS)
    pillow = Image.fromarray(PIXELS[0, 0]).rotate(90)
    assert np.array_equal(turned[0, 0], np.asarray(pillow))


def test_other_angles_keep_the_middle_and_fill_the_corners():
    flat = np.full((1, 1, 16, 16), 200, np.uint8)
    turned = rotate(Rotate(45.0, fill=9), flat)
    assert (turned[0, 0, 6:10, 6:10] == 200).all()
    assert all(turned[0, 0, r, c] == 9 for r in (0, -1) for c in (0, -1))
    slightly, back = rotate(Rotate(89.9), PIXELS), rotate(Rotate(90.0), PIXELS)
    assert np.abs(slightly[..., 3:9, 3:9].astype(int) - back[..., 3:9, 3:9]).mean() < 3  # the same way round


def test_blur_is_a_gaussian_of_that_deviation():
    point = np.zeros((1, 1, 65, 65), np.uint8)
    point[0, 0, 32, 32] = 255
    wide = np.zeros((1, 1, 65, 65), np.uint8)
    wide[..., 32:] = 255
    edge = blur(Blur(4.0), wide)[0, 0, 32].astype(float)
    spread = np.diff(edge)  # the edge's slope is the Gaussian itself
    places = np.arange(64) + 0.5
    middle = (spread * places).sum() / spread.sum()
    assert np.sqrt((spread * (places - middle) ** 2).sum() / spread.sum()) == pytest.approx(4.0, rel=0.02)
    assert np.array_equal(blur(Blur(2.0), point)[0, 0], blur(Blur(2.0), point)[0, 0].T)
    flat = np.full((2, 3, 8, 8), 77, np.uint8)
    assert np.array_equal(blur(Blur(3.0), flat), flat)  # the border takes nothing away


def test_steps_follow_each_other_on_both_sides_and_by_any_index(monkeypatch):
    steps = [functools.partial(rotate, Rotate(90.0)), functools.partial(shuffle_patches, ShufflePatches(2))]
    splits = apply_transforms(Splits(ArrayImages(PIXELS[:4]), ArrayImages(PIXELS[4:])), steps)
    expected = shuffle_patches(ShufflePatches(2), rotate(Rotate(90.0), PIXELS))
    for kept in (True, False):
        monkeypatch.setattr(module, "MEMORY_BYTES", 2**30 if kept else 0)
        monkeypatch.setattr(module, "CHUNK", 3)
        sides = [TransformedImages(side.images, side.steps) for side in (splits.train, splits.validation)]
        assert [len(side) for side in sides] == [4, 2]
        assert np.array_equal(sides[0].take([3, 0, 3, 1]), expected[[3, 0, 3, 1]])
        assert np.array_equal(sides[1].take(np.array([1, 0])), expected[[5, 4]])
        assert sides[0].take([]).shape == (0, 3, 12, 12)


def test_without_steps_the_source_is_handed_on():
    splits = Splits(ArrayImages(PIXELS[:4]), ArrayImages(PIXELS[4:]))
    assert apply_transforms(splits, []) is splits


@pytest.mark.parametrize("bad", [lambda x: x[:, :, 1:], lambda x: x.astype(np.float32)])
def test_a_step_that_changes_shape_or_type_is_an_error(bad):
    with pytest.raises(UsageError, match="a transform changes the dtype or shape"):
        apply_transforms(Splits(ArrayImages(PIXELS), ArrayImages(PIXELS)), [bad]).train.take([0])
