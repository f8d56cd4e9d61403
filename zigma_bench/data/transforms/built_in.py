"""What can be done to images before anything sees them: their patches shuffled, the picture turned, its detail blurred.

A transform changes every image of a set alike, training, validation and reference images, on decoded uint8 pixels
[n, C, H, W]. `train.flip` mirrors what the transforms have made.
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
    """Moves the patches of every image by one fixed permutation: what stays is what a patch holds, not where it lies.

    `patch`: the side in pixels. `seed` draws the permutation. Patch i of an image, counted row by row, becomes the one
    that was patch `permutation[i]`.
    """

    patch: Annotated[int, Interval(ge=1, le=65_536)]
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0


@dataclass(frozen=True)
class Rotate:
    """Turns every image about its centre, counter-clockwise, and keeps its size.

    `degrees`: multiples of 90 move pixels and change none; other angles are resampled (bicubic, Pillow's `rotate`), and
    `fill` is the level of what comes from outside the image.
    """

    degrees: Annotated[float, Interval(ge=-360, le=360)]
    fill: Annotated[int, Interval(ge=0, le=255)] = 0


@dataclass(frozen=True)
class Blur:
    """Convolves every channel with a Gaussian, cut off at 4 sigma and mirrored at the border, rounded to 8 bits.

    `sigma`: its standard deviation in pixels.
    """

    sigma: Annotated[float, Gt(0), Le(256)]


def check_shuffle(options: ShufflePatches, *, channels: int, height: int, width: int) -> None:
    """NotReady where patches don't divide the image, or are the whole image."""
    p = options.patch
    if height % p or width % p or (height, width) == (p, p):
        raise NotReady(
            f"patches of {p} x {p} can't be shuffled in an image of {height} x {width}",
            expected="a patch that divides height and width and leaves at least two",
            got=p,
            do="choose another patch or another resolution",
        )


def permutation_of(options: ShufflePatches, *, height: int, width: int) -> Permutation:
    """The patch that each place is given, [patches]; the same on every machine."""
    patches = (height // options.patch) * (width // options.patch)
    # RandomState's stream is frozen for good (NEP 19); that of default_rng may change with NumPy
    return np.random.RandomState(options.seed).permutation(patches).astype(np.int64)


def digest_of_shuffle(options: ShufflePatches, *, channels: int, height: int, width: int) -> str:
    """The sha256 of the permutation, little-endian int64."""
    return hashlib.sha256(permutation_of(options, height=height, width=width).astype("<i8").tobytes()).hexdigest()


def shuffle_patches(options: ShufflePatches, pixels: Pixels) -> Pixels:
    """[n, C, H, W] with its patches moved."""
    n, C, H, W = pixels.shape
    p = options.patch
    patches = pixels.reshape(n, C, H // p, p, W // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(n, -1, C, p, p)
    moved = patches[:, permutation_of(options, height=H, width=W)].reshape(n, H // p, W // p, C, p, p)
    return moved.transpose(0, 3, 1, 4, 2, 5).reshape(n, C, H, W)


def check_rotate(options: Rotate, *, channels: int, height: int, width: int) -> None:
    """NotReady where a quarter turn would change the shape."""
    if height != width and options.degrees % 180 == 90:
        raise NotReady(
            f"an image of {height} x {width} can't be turned by {options.degrees:g} degrees", expected="a square image"
        )


def rotate(options: Rotate, pixels: Pixels) -> Pixels:
    """[n, C, H, W], turned."""
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
    """[n, C, H, W], blurred in float64."""
    from scipy.ndimage import gaussian_filter1d

    along = functools.partial(gaussian_filter1d, sigma=options.sigma, mode="reflect", truncate=4.0)
    blurred: npt.NDArray[np.float64] = along(along(pixels.astype(np.float64), axis=2), axis=3)
    return np.rint(blurred).astype(np.uint8)
