"""Strict decoding of images to uint8 [C, H, W]: an image that can't be decoded completely is an error that names it.

Colour profiles are ignored, as is usual in the field. The EXIF orientation is applied, as `datasets` does.
"""

from __future__ import annotations

import functools
import io
import threading
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zigma_bench.data.images import Crop, Pixels
from zigma_bench.data.reading.png import check_png
from zigma_bench.errors import BadImage

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
    "AVIF",
)  # formats that Pillow reads without starting another program
MAX_PIXELS = 89_478_485  # Pillow's own limit, beyond which it only warns
ORIENTATION_PLACES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
MEND = "replace or remove the image"

Resize = Literal["short-side-center-crop", "adm-center-crop", "squash", "none"]


class Enlarged(threading.local):
    """The number of images that the current thread has enlarged."""

    images = 0


enlarged = Enlarged()


def decode_image(
    data: bytes, *, channels: int, resolution: int, resize: Resize, where: str, crop: Crop | None = None
) -> Pixels:
    """Decode an image to uint8 [channels, resolution, resolution]: its centre, or a `crop` of it.

    Raises BadImage, with the place `where`, if the image is broken or doesn't fit.
    """
    image = flat_image(data, where).convert("RGB" if channels == 3 else "L")
    image = (
        fit_to_square(image, resolution, resize, where)
        if crop is None
        else cut_crop(image, resolution, resize, crop, where)
    )
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def flat_image(data: bytes, where: str) -> Image.Image:
    """Decode an image at its own size: upright, opaque, with 8 bits per channel; BadImage if it is broken."""
    return _composite_on_white(_open_image(data, where), where)


def _open_image(data: bytes, where: str) -> Image.Image:
    """The first frame of an image, decoded completely and turned upright."""
    try:
        with Image.open(io.BytesIO(data), formats=_supported_formats()) as image:
            _check_size(image.width * image.height, where)
            image.load()
            check_png(data, where, MEND)  # after Pillow, because its errors are more specific
            return ImageOps.exif_transpose(image) if _may_be_turned(image) else image
    except BadImage:
        raise
    except Exception as error:  # decoders raise all kinds of errors on broken data
        raise BadImage(f"the image can't be decoded ({_decode_fault(error, data)})", where=where, do=MEND) from error


@functools.cache
def _supported_formats() -> tuple[str, ...]:
    """The FORMATS that the installed Pillow can read (AVIF is optional)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _may_be_turned(image: Image.Image) -> bool:
    """Whether the image may have an orientation; reading it takes longer than decoding a small JPEG."""
    return image.format == "TIFF" or any(key in image.info for key in ORIENTATION_PLACES)


def _decode_fault(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{len(data)} bytes that begin with {data[:12]!r}: not one of {', '.join(_supported_formats())}"
    return f"{type(error).__name__}: {error}"


def _check_size(pixels: int, where: str) -> None:
    if pixels > MAX_PIXELS:
        raise BadImage(
            "the image is too large", where=where, expected=f"at most {MAX_PIXELS} pixels", got=pixels, do=MEND
        )


def _composite_on_white(image: Image.Image, where: str) -> Image.Image:
    """The image composited on white, if it is transparent, with 8 bits per channel."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        levels = np.asarray(image, dtype=np.float64) / 257.0  # 65535 / 255: Pillow's own conversion may clip instead
        return Image.fromarray(np.rint(levels).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(
            f"the image has mode {image.mode!r}, which doesn't define a value for white",
            where=where,
            expected="8 or 16 bits per channel",
            do="convert the image",
        )
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image


def fit_to_square(image: Image.Image, resolution: int, resize: Resize, where: str) -> Image.Image:
    """The image resized and cropped at its centre to resolution x resolution pixels.

    Raises BadImage if `resize` is none and the image has another size.
    """
    if image.size == (resolution, resolution):
        return image
    if resize == "none":
        raise BadImage(
            "the image has another size",
            where=where,
            expected=f"{resolution} x {resolution} pixels, for resize: none",
            got=f"{image.width} x {image.height}",
            do="set resize: short-side-center-crop",
        )
    enlarged.images += min(image.size) < resolution
    scaled = _resize_short_side(image, resolution, resize, where)
    left, top = (scaled.width - resolution) // 2, (scaled.height - resolution) // 2
    return scaled.crop((left, top, left + resolution, top + resolution))


def cut_crop(image: Image.Image, resolution: int, resize: Resize, crop: Crop, where: str) -> Image.Image:
    """A crop of the image, resolution x resolution pixels; BadImage if the image is smaller."""
    if min(image.size) < resolution:
        raise BadImage(
            "the image is smaller than the crops of train.random_crop", where=where,
            expected=f"at least {resolution} pixels per side", got=f"{image.width} x {image.height}",
            do="remove the image, or leave random_crop out",
        )  # fmt: skip
    scaled = _resize_short_side(image, crop.short_side, resize, where)
    left, top = int(crop.across * (scaled.width - resolution + 1)), int(crop.down * (scaled.height - resolution + 1))
    return scaled.crop((left, top, left + resolution, top + resolution))


def _resize_short_side(image: Image.Image, short_side: int, resize: Resize, where: str) -> Image.Image:
    """The image resized so that its short side has `short_side` pixels, or with `squash` both sides; bicubic."""
    if resize == "squash":
        return image.resize((short_side, short_side), Image.Resampling.BICUBIC)
    if resize == "adm-center-crop":
        image = _halve_repeatedly(image, short_side)
    else:
        assert resize == "short-side-center-crop", resize
    short = min(image.size)
    if short == short_side:
        return image
    width, height = (max(short_side, round(side * short_side / short)) for side in image.size)
    _check_size(width * height, where)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _halve_repeatedly(image: Image.Image, short_side: int) -> Image.Image:
    """The image halved, by means of 2 x 2 pixels, while its short side is at least twice `short_side`.

    This is the first step in ADM's code (openai/guided-diffusion, guided_diffusion/image_datasets.py: center_crop_arr
    and random_crop_arr), and in DiT's and SiT's. The bicubic second step is that of short-side-center-crop.
    """
    while min(image.size) >= 2 * short_side:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    return image
