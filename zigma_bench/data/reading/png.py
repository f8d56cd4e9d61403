"""Checks the chunks of a PNG: Pillow decodes one whose checksums are wrong, or that lacks its end, without an error.

The layout is that of the PNG specification (W3C, third edition, sections 5.2 to 5.6). Every chunk is a length of 4
bytes, a type of 4 letters, the data, and the CRC-32 of type and data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from zigma_bench.errors import BadImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # all that a decoder must know; any other begins with a small letter
AROUND = 12  # bytes of a chunk beside its data
PALETTE = 3  # the colour type whose pixels are places in PLTE


def check_png(data: bytes, where: str, do: str) -> None:
    """BadImage for a PNG with a chunk that is damaged, cut off, unknown or missing; other formats pass."""
    if not data.startswith(SIGNATURE):
        return
    seen: list[bytes] = []
    for kind, crc_is_right in _chunks(data, where, do):
        if not crc_is_right:
            raise _damaged(f"the checksum (CRC) of its chunk {len(seen)}, {_shown(kind)}, is wrong", where, do)
        if kind not in CRITICAL and not kind[0] & 0x20:
            raise _damaged(f"its chunk {len(seen)}, {_shown(kind)}, is none that a PNG may have", where, do)
        if kind == b"IHDR" and seen:
            raise _damaged("it has a second head (IHDR)", where, do)
        seen.append(kind)
    if seen[-1:] != [b"IEND"]:
        raise _damaged("it is cut off: it has no end mark (IEND)", where, do)
    if seen[0] == b"IHDR" and data[25] == PALETTE and b"PLTE" not in seen:
        raise _damaged("its palette (PLTE) is missing", where, do)


def _chunks(data: bytes, where: str, do: str) -> Iterator[tuple[bytes, bool]]:
    """(type, whether its CRC is right) of each chunk up to IEND; what follows IEND is no part of the PNG."""
    view, place, kind = memoryview(data), len(SIGNATURE), b""
    while place < len(data) and kind != b"IEND":
        if place + AROUND > len(data):
            raise _damaged("it is cut off within the head of a chunk", where, do)
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 8 + length
        if end + 4 > len(data):
            raise _damaged(f"it is cut off within the chunk {_shown(kind)}", where, do)
        yield kind, zlib.crc32(view[place + 4 : end]) == struct.unpack_from(">I", data, end)[0]
        place = end + 4


def _damaged(what: str, where: str, do: str) -> BadImage:
    return BadImage(f"the PNG is damaged: {what}", where=where, do=do)


def _shown(kind: bytes) -> str:
    return kind.decode() if kind.isalpha() else repr(kind)
