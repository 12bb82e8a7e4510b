# SPDX-License-Identifier: Apache-2.0
"""Kind and size of an encoded image, read from its first bytes before anything is decoded."""

from __future__ import annotations

import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

Size = tuple[int, int]

MAGIC = {
    "JPEG": rb"\xff\xd8",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "BMP": rb"BM",
    "WebP": rb"RIFF....WEBP",
    "PNM": rb"P[1-6]\s",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8",
    "AVIF": rb"....ftypavi",
    "HEIF": rb"....ftyp(?:hei|hev|mif|msf)",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?R",
    "Photoshop": rb"8BPS",
    "H.264 or H.265 video": rb"\0?\0\0\x01",
}
"""First bytes of each kind of image."""

PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"))
"""Chunks that the pixels and their orientation depend on."""

MAX_SCANS = 100
"""Scans of a JPEG: ten are usual, and each of an empty one's hundred bytes costs a pass over all pixels."""

MAX_SURPLUS = 1 << 29
"""Bytes that may follow the pixels of a PNG when it is inflated, at most: libpng takes 1 s for them."""

MAX_INFLATION = 1032
"""Times by which zlib's format enlarges data at most."""

TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""The types of integers that libtiff takes for a size."""

NO_SIZE = 0, 0
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEPARATOR = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM = re.compile(rb"P[1-6]" + _SEPARATOR + rb"(\d{1,9})" + _SEPARATOR + rb"(\d{1,9})\s")


class EncodedImage(NamedTuple):
    """What the header of an encoded image says; `kind` is empty for what is no image.

    The size in pixels is 0 x 0 where the header is damaged or this kind of image is not read.
    """

    kind: str
    width: int
    height: int


def identify(data: bytes) -> EncodedImage:
    """The kind of an encoded image and the size that its decoder will allocate."""
    kind = next((kind for kind, magic in MAGIC.items() if re.match(magic, data, re.DOTALL)), "")
    try:
        width, height = _SIZES[kind](data) if kind in _SIZES else NO_SIZE
    except (struct.error, OverflowError):  # cut off, or an offset of 64 bits
        width, height = NO_SIZE
    return EncodedImage(kind, width, height)


def _jpeg(data: bytes) -> Size:
    """Of the first frame header, as libjpeg finds it: segments are skipped, and bytes between them too."""
    if data.count(b"\xff\xda\x00") > MAX_SCANS:
        return NO_SIZE
    place = 2
    while (place := data.find(b"\xff", place)) >= 0:
        (marker,) = struct.unpack_from("B", data, place + 1)
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        if marker in (0xD9, 0xDA):
            break
        if marker == 0xFF:
            place += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            place += 2
        else:
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return NO_SIZE


def _png(data: bytes) -> Size:
    """None where a chunk does not end within the data: OpenCV allocates whatever length a chunk announces."""
    width, height = struct.unpack_from(">II", data, 16)
    return (width, height) if all(end <= len(data) for _, _, end in _png_chunks(data)) else NO_SIZE


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk, up to the last one or one that ends behind the data."""
    kind, end = b"", 8
    while kind != b"IEND" and end <= len(data):
        start = end
        length, kind = struct.unpack_from(">I4s", data, start)
        end += 12 + length
        yield kind, start, end


def plain_png(data: bytes) -> bytes:
    """A PNG that `identify` accepts, without animation and texts: some animations crash OpenCV 5.0.0."""
    kept = (data[start:end] for kind, start, end in _png_chunks(data) if kind in PNG_CHUNKS)
    return data[:8] + b"".join(kept)


def has_surplus(data: bytes, width: int, height: int) -> bool:
    """Whether far more than the pixels is compressed in a PNG of this size, which libpng would inflate."""
    room = 8 * height * (width + 1)  # 16 bits of 4 channels
    chunks = [(start + 8, end - 4) for kind, start, end in _png_chunks(data) if kind == b"IDAT"]
    if MAX_INFLATION * sum(end - start for start, end in chunks) < room + MAX_SURPLUS:
        return False
    inflater = zlib.decompressobj()
    for start, end in chunks:
        for place in range(start, end, 1 << 16):
            try:
                room -= len(inflater.decompress(data[place : min(place + (1 << 16), end)], room + 1))
            except zlib.error:  # libpng stops there too
                return False
            if room < 0:
                return True
    return False


def _bmp(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _webp(data: bytes) -> Size:
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, _, height, _ = struct.unpack("<HBHB", data[24:30])
        high_width, high_height = data[26], data[29]
        return width + (high_width << 16) + 1, height + (high_height << 16) + 1
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _pnm(data: bytes) -> Size:
    found = _PNM.match(data)
    return (int(found[1]), int(found[2])) if found else NO_SIZE


def _tiff(data: bytes) -> Size:
    """The larger of image and tile in the first directory: a tile is decoded as a whole.

    Of a tag that occurs twice the largest value counts, whichever of them libtiff takes.
    """
    order, big = ("<" if data[:2] == b"II" else ">"), b"+" in data[2:4]
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    place, entry = (place + 8, 20) if big else (place + 2, 12)
    values = defaultdict[int, int](int)
    for start in range(place, place + min(count, 4096) * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", data, start)
        if form := TIFF_INTEGERS.get(kind):
            (value,) = struct.unpack_from(order + form, data, start + (12 if big else 8))
            values[tag] = max(values[tag], value)
    width, height = values[256], values[257]
    return (max(width, values[322]), max(height, values[323])) if width and height else NO_SIZE


_SIZES = {"JPEG": _jpeg, "PNG": _png, "BMP": _bmp, "WebP": _webp, "PNM": _pnm, "TIFF": _tiff}
