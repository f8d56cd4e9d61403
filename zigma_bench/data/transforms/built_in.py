"""The built-in transforms: shuffle the patches of images, rotate images, blur images.

A transform applies to all images of a data set, for training, validation and reference, as decoded uint8 pixels
[n, C, H, W]. `train.flip` mirrors images after the transforms.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Interval, Le

from zigma_bench.data.images import Pixels
from zigma_bench.errors import NotReady

Permutation = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ShufflePatches:
    """Permutes the patches of every image in the same way: patches stay intact, but their positions change.

    `patch`: the side in pixels. `seed` draws the permutation. Patch i of the result, counted row by row, is patch
    `permutation[i]` of the image.
    """

    patch: Annotated[int, Interval(ge=1, le=65_536)]
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0


@dataclass(frozen=True)
class Rotate:
    """Rotates every image about its centre, counter-clockwise; the size stays the same.

    `degrees`: multiples of 90 only move pixels; other angles resample them (bicubic, Pillow's `rotate`). `fill`: the
    value of pixels from outside the image.
    """

    degrees: Annotated[float, Interval(ge=-360, le=360)]
    fill: Annotated[int, Interval(ge=0, le=255)] = 0


@dataclass(frozen=True)
class Blur:
    """Convolves every channel with a Gaussian, truncated at 4 sigma, with reflection at the border, rounded to 8 bits.

    `sigma`: the standard deviation in pixels.
    """

    sigma: Annotated[float, Gt(0), Le(256)]


def check_shuffle(options: ShufflePatches, *, channels: int, height: int, width: int) -> None:
    """Raise NotReady if the patches don't divide the image, or there is only one."""
    p = options.patch
    if height % p or width % p or (height, width) == (p, p):
        raise NotReady(
            f"patches of {p} x {p} can't be shuffled in an image of {height} x {width}",
            expected="a patch size that divides height and width and gives at least two patches",
            got=p,
            do="choose another patch size or another resolution",
        )


def permutation_of(options: ShufflePatches, *, height: int, width: int) -> Permutation:
    """The source patch of each position, [patches]; the same on every machine."""
    patches = (height // options.patch) * (width // options.patch)
    # the stream of RandomState is frozen (NEP 19); that of default_rng may change with NumPy
    return np.random.RandomState(options.seed).permutation(patches).astype(np.int64)


def digest_of_shuffle(options: ShufflePatches, *, channels: int, height: int, width: int) -> str:
    """The sha256 of the permutation, little-endian int64."""
    return hashlib.sha256(permutation_of(options, height=height, width=width).astype("<i8").tobytes()).hexdigest()


def shuffle_patches(options: ShufflePatches, pixels: Pixels) -> Pixels:
    """Permute the patches of images [n, C, H, W]."""
    n, C, H, W = pixels.shape
    p = options.patch
    patches = pixels.reshape(n, C, H // p, p, W // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(n, -1, C, p, p)
    moved = patches[:, permutation_of(options, height=H, width=W)].reshape(n, H // p, W // p, C, p, p)
    return moved.transpose(0, 3, 1, 4, 2, 5).reshape(n, C, H, W)


def check_rotate(options: Rotate, *, channels: int, height: int, width: int) -> None:
    """Raise NotReady if a rotation by 90 or 270 degrees would change the shape."""
    if height != width and options.degrees % 180 == 90:
        raise NotReady(
            f"an image of {height} x {width} can't be rotated by {options.degrees:g} degrees",
            expected="a square image",
        )


def rotate(options: Rotate, pixels: Pixels) -> Pixels:
    """Rotate images [n, C, H, W]."""
    degrees = options.degrees % 360
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(pixels, int(degrees // 90), axes=(2, 3)))
    from PIL import Image

    def turned(channel: Pixels) -> Pixels:
        image = Image.fromarray(channel).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=options.fill)
        return np.asarray(image)

    channels = pixels.reshape(-1, *pixels.shape[2:])
    return np.stack([turned(channel) for channel in channels]).reshape(pixels.shape)


def blur(options: Blur, pixels: Pixels) -> Pixels:
    """Blur images [n, C, H, W], computed in float64."""
    from scipy.ndimage import gaussian_filter1d

    along = functools.partial(gaussian_filter1d, sigma=options.sigma, mode="reflect", truncate=4.0)
    blurred: npt.NDArray[np.float64] = along(along(pixels.astype(np.float64), axis=2), axis=3)
    return np.rint(blurred).astype(np.uint8)
