"""Is a picture file whole? Asked before a decoder is, because decoders repair what they can and say nothing.

    PNG    every chunk's length and CRC-32, IHDR first, IEND there, and the pixels: inflated under zlib's Adler-32 check to
           exactly the bytes that the header implies
    JPEG   an end-of-image marker after the last scan
    BMP    the file as long as its header says
    TIFF   every strip or tile of the first picture non-empty and inside the file (Pillow reads missing ones as black)
    WebP   the RIFF length inside the file

Everything is bounded: what a header claims is compared with what the file can hold before anything is inflated.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from flawforge_runtime.types import ImageError

PNG = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
PIECE = 1 << 20  # bytes that are inflated at a time
DENSEST = 1100  # bytes that zlib makes of one at most, and a little (1032 in theory)


def check(stream: BinaryIO, name: str) -> None:
    """Raises ImageError for a file that is cut short or damaged in a way that its format can tell. Rewinds the stream."""
    stream.seek(0)
    head = stream.read(16)
    length = stream.seek(0, 2)
    stream.seek(0)
    why = ""
    if head.startswith(PNG):
        why = png(stream, length)
    elif head.startswith(b"\xff\xd8"):
        why = jpeg(stream, length)
    elif head.startswith(b"BM"):
        claimed = struct.unpack("<I", head[2:6])[0]
        why = f"its header says {claimed} bytes and it has {length}" if claimed > length else ""
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        claimed = struct.unpack("<I", head[4:8])[0] + 8
        why = f"its header says {claimed} bytes and it has {length}" if claimed > length else ""
    stream.seek(0)
    if why:
        raise ImageError(f"{name} is damaged or cut short ({why}); replace it or take it out.")


def png(stream: BinaryIO, length: int) -> str:
    """What is wrong with a PNG file of `length` bytes; "" where it is whole."""
    stream.seek(8)
    header: tuple[int, ...] = ()
    expected = unpacked = 0
    inflate = zlib.decompressobj()
    while True:
        head = stream.read(8)
        if len(head) < 8:
            return "it has no IEND chunk"
        size, kind = struct.unpack(">I4s", head)
        if size > length - stream.tell() - 4:
            return f"its chunk {kind.decode('latin-1')!r} is longer than the file"
        data = stream.read(size)
        if zlib.crc32(data, zlib.crc32(kind)) != struct.unpack(">I", stream.read(4))[0]:
            return f"the checksum of its chunk {kind.decode('latin-1')!r} is wrong"
        if not header:
            if kind != b"IHDR" or size != 13:
                return "it does not begin with its header"
            header = struct.unpack(">IIBBBBB", data)
            if header[3] not in CHANNELS or header[2] not in (1, 2, 4, 8, 16) or header[6] not in (0, 1):
                return "its header is none"
            expected = png_bytes(*header[:4], interlaced=header[6] == 1)
            if expected > DENSEST * length:
                return f"{length} bytes cannot hold the {header[1]} x {header[0]} pixels (h x w) of its header"
        elif kind == b"IDAT":
            try:
                while data and not inflate.eof:
                    unpacked += len(inflate.decompress(data, PIECE))
                    data = inflate.unconsumed_tail
                    if unpacked > expected:
                        return "it holds more pixels than its header says"
            except zlib.error:
                return "its pixels cannot be unpacked"
        elif kind == b"IEND":
            break
    try:
        unpacked += len(inflate.flush())
    except zlib.error:
        return "its pixels cannot be unpacked"
    if not inflate.eof:
        return "its pixels end early"
    return "" if unpacked == expected else "it holds fewer pixels than its header says"


def png_bytes(width: int, height: int, depth: int, colour: int, *, interlaced: bool) -> int:
    """Bytes of a PNG's unpacked pixels, a filter byte a row included."""
    bits = depth * CHANNELS[colour]

    def passed(high: int, wide: int) -> int:
        return high * (1 + (wide * bits + 7) // 8) if high and wide else 0

    if not interlaced:
        return passed(height, width)
    return sum(passed(-(-(height - top) // down), -(-(width - left) // across)) for top, left, down, across in ADAM7)


def jpeg(stream: BinaryIO, length: int) -> str:
    """ "" where the end-of-image marker stands in the last bytes; cameras may pad or append after it."""
    for tail in (1 << 12, length):
        stream.seek(max(0, length - tail))
        if b"\xff\xd9" in stream.read(tail):
            return ""
    return "it has no end-of-image marker"


def strips(offsets: tuple[int, ...], counts: tuple[int, ...], needed: int, length: int) -> str:
    """What is wrong with the strips or tiles of a TIFF of `length` bytes, `needed` of them; "" where nothing is."""
    if len(offsets) < needed or len(counts) < len(offsets):
        return f"it has {min(len(offsets), len(counts))} of {needed} strips"
    for offset, count in zip(offsets[:needed], counts[:needed], strict=True):
        if offset <= 0 or count <= 0:
            return "a strip of it is empty"
        if offset + count > length:
            return "a strip of it lies beyond the file's end"
    return ""
