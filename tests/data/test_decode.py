"""Decoding: sizes, modes, and refused files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from zigma_bench.data.images import Pixels
from zigma_bench.data.reading import decode as module
from zigma_bench.data.reading.decode import decode_image
from zigma_bench.errors import BadImage


def encoded(image: Image.Image, kind: str = "PNG", **rest: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **rest)
    return stream.getvalue()


def decoded(data: bytes, channels: int = 3, resolution: int = 4) -> Pixels:
    return decode_image(data, channels=channels, resolution=resolution, resize="short-side-center-crop", where="here")


@pytest.mark.parametrize("size", [(7, 4), (4, 9), (31, 17), (5, 64), (3, 2), (4, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_becomes_the_centre_square(size: tuple[int, int], channels: int) -> None:
    ramp = np.arange(size[0] * size[1] * 3, dtype=np.float64).reshape(size[1], size[0], 3)
    image = Image.fromarray((ramp % 256).astype(np.uint8))
    assert decoded(encoded(image), channels).shape == (channels, 4, 4)


def test_the_centre_is_cut_from_the_scaled_image() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 20, 3)).astype(np.uint8))
    scaled = np.asarray(image.resize((10, 4), Image.Resampling.BICUBIC))[:, 3:7]
    np.testing.assert_array_equal(decoded(encoded(image)), scaled.transpose(2, 0, 1))


def test_adm_halves_first_and_squash_keeps_no_proportion() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (37, 53, 3)).astype(np.uint8))
    given = {"channels": 3, "resolution": 8, "where": "here"}
    halved = image.resize((26, 18), Image.Resampling.BOX).resize((13, 9), Image.Resampling.BOX)
    scaled = np.asarray(halved.resize((round(13 * 8 / 9), 8), Image.Resampling.BICUBIC))
    left = (scaled.shape[1] - 8) // 2
    found = decode_image(encoded(image), resize="adm-center-crop", **given)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, scaled[:, left : left + 8].transpose(2, 0, 1))
    small = Image.fromarray(np.asarray(image)[:15, :15])  # less than twice the resolution: no halving
    both = [
        decode_image(encoded(small), resize=name, **given) for name in ("adm-center-crop", "short-side-center-crop")
    ]  # type: ignore[arg-type]
    np.testing.assert_array_equal(*both)
    squashed = decode_image(encoded(image), resize="squash", **given)  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        squashed, np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert decoded(data)[:, 0, 0].tolist() == [255, 0, 0]


def test_downscaling_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(decoded(encoded(Image.fromarray(stripes))).astype(int) - 127).max() < 8


def test_transparent_images_lie_on_white() -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert decoded(encoded(half))[:, 0, 0].tolist() == [255, 127, 127]
    for image in (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), Image.new("LA", (4, 4), (0, 0))):
        assert (decoded(encoded(image)) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert (decoded(encoded(palette, transparency=0)) == 255).all()
    assert decoded(encoded(palette))[:, 0, 0].tolist() == [10, 20, 30]


def test_gray_colour_and_sixteen_bits() -> None:
    assert (decoded(encoded(Image.new("L", (4, 4), 77))) == 77).all()
    assert (decoded(encoded(Image.new("1", (4, 4), 1)), channels=1) == 255).all()
    levels = np.array([[0, 257], [32896, 65535]], dtype=np.uint16)
    deep = decoded(encoded(Image.fromarray(levels)), channels=1, resolution=2)
    assert deep.tolist() == [[[0, 1], [128, 255]]]
    cmyk = decoded(encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG"))
    assert (cmyk == 255).all()


def test_the_orientation_of_a_photo_is_applied() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (4, 4, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    np.testing.assert_array_equal(decoded(encoded(image, exif=exif)), decoded(encoded(image))[:, ::-1, ::-1])


def test_no_resize_refuses_another_size() -> None:
    with pytest.raises(BadImage, match=r"here: the image has another size; expected 4 x 4.*5 x 4"):
        decode_image(encoded(Image.new("L", (5, 4))), channels=1, resolution=4, resize="none", where="here")


def test_bombs_and_unknown_formats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadImage, match="not one of PNG"):
        decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(BadImage, match="doesn't define a value for white"):
        decoded(encoded(Image.new("F", (4, 4)), "TIFF"))
    monkeypatch.setattr(module, "MAX_PIXELS", 99)
    with pytest.raises(BadImage, match="too large"):
        decoded(encoded(Image.new("L", (10, 10))))
    with pytest.raises(BadImage, match="too large"):  # small, but a long strip would grow as its short side does
        decoded(encoded(Image.new("L", (90, 1))))


def test_pillows_own_limit_is_an_error() -> None:
    header = bytearray(encoded(Image.new("1", (1, 1))))
    header[16:24] = (20_000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(BadImage, match="Bomb"):
        decoded(bytes(header))
