"""A PNG with damaged chunks is an error that names the file, even if Pillow decodes it without an error."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zigma_bench.data.reading.decode import decode_image
from zigma_bench.errors import BadImage

HEAD = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
ROWS = zlib.compress(b"".join(b"\0" + bytes(range(row, row + 12)) for row in range(4)))


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def read(data: bytes) -> None:
    decode_image(data, channels=3, resolution=4, resize="none", where="photos/a.png")


WHOLE = png(chunk(b"IHDR", HEAD), chunk(b"IDAT", ROWS), chunk(b"tEXt", b"a\0b"), chunk(b"IEND"))
INDEXED = zlib.compress(b"\0\0\0\0\0" * 4)
DAMAGES = {
    "the checksum (CRC) of its chunk 1, IDAT, is wrong": flipped(WHOLE, WHOLE.index(b"IDAT") + 4 + len(ROWS)),
    "the checksum (CRC) of its chunk 2, tEXt, is wrong": flipped(WHOLE, WHOLE.index(b"tEXt") + 6),
    "the checksum (CRC) of its chunk 3, IEND, is wrong": flipped(WHOLE, -1),
    "no end chunk (IEND)": WHOLE[:-12],
    "truncated within the header of a chunk": WHOLE[:-4],
    "its palette (PLTE) is missing": png(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0)), chunk(b"IDAT", INDEXED), chunk(b"IEND")
    ),
    "its chunk 1, ABCD, is not allowed": png(
        chunk(b"IHDR", HEAD), chunk(b"ABCD"), chunk(b"IDAT", ROWS), chunk(b"IEND")
    ),
    "a second header": png(chunk(b"IHDR", HEAD), chunk(b"IHDR", HEAD), chunk(b"IDAT", ROWS), chunk(b"IEND")),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_damage_that_pillow_passes_over_is_named(reason: str) -> None:
    with Image.open(io.BytesIO(DAMAGES[reason])) as image:
        image.load()  # no error
    with pytest.raises(BadImage) as caught:
        read(DAMAGES[reason])
    assert reason in str(caught.value) and "photos/a.png" in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_whole_files_pass(mode: str) -> None:
    read(WHOLE)
    read(WHOLE + b"a note after the end")
    stream = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert(mode).save(stream, "PNG")
    read(stream.getvalue())
