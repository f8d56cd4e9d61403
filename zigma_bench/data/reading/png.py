"""Check the chunks of a PNG, because Pillow ignores wrong checksums and a missing end.

The layout is in the PNG specification (W3C, third edition, sections 5.2 to 5.6). A chunk is a length of 4 bytes, a type
of 4 letters, the data, and the CRC-32 of type and data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from zigma_bench.errors import BadImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # all types that a decoder must know; others begin with a small letter
OVERHEAD = 12  # bytes of a chunk without its data
PALETTE = 3  # the colour type whose pixels are indices into PLTE


def check_png(data: bytes, where: str, do: str) -> None:
    """Raise BadImage for a PNG with a damaged, truncated, unknown or missing chunk; other formats are not checked."""
    if not data.startswith(SIGNATURE):
        return
    seen: list[bytes] = []
    for kind, crc_is_right in _read_chunks(data, where, do):
        if not crc_is_right:
            raise _damaged_error(
                f"the checksum (CRC) of its chunk {len(seen)}, {_chunk_name(kind)}, is wrong", where, do
            )
        if kind not in CRITICAL and not kind[0] & 0x20:
            raise _damaged_error(f"its chunk {len(seen)}, {_chunk_name(kind)}, is not allowed in a PNG", where, do)
        if kind == b"IHDR" and seen:
            raise _damaged_error("it has a second header (IHDR)", where, do)
        seen.append(kind)
    if seen[-1:] != [b"IEND"]:
        raise _damaged_error("it is truncated: it has no end chunk (IEND)", where, do)
    if seen[0] == b"IHDR" and data[25] == PALETTE and b"PLTE" not in seen:
        raise _damaged_error("its palette (PLTE) is missing", where, do)


def _read_chunks(data: bytes, where: str, do: str) -> Iterator[tuple[bytes, bool]]:
    """(type, whether its CRC is right) of each chunk up to IEND; bytes after IEND are not part of the PNG."""
    view, place, kind = memoryview(data), len(SIGNATURE), b""
    while place < len(data) and kind != b"IEND":
        if place + OVERHEAD > len(data):
            raise _damaged_error("it is truncated within the header of a chunk", where, do)
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 8 + length
        if end + 4 > len(data):
            raise _damaged_error(f"it is truncated within the chunk {_chunk_name(kind)}", where, do)
        yield kind, zlib.crc32(view[place + 4 : end]) == struct.unpack_from(">I", data, end)[0]
        place = end + 4


def _damaged_error(what: str, where: str, do: str) -> BadImage:
    return BadImage(f"the PNG is damaged: {what}", where=where, do=do)


def _chunk_name(kind: bytes) -> str:
    return kind.decode() if kind.isalpha() else repr(kind)
