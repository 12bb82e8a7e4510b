# SPDX-License-Identifier: Apache-2.0
"""Whether a video ends early, in containers whose end ffmpeg passes over in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_ELEMENTS = frozenset(
    (
        _SEGMENT, _CLUSTER, 0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367,
        0x1043A770, 0x1941A469, 0xEC, 0xBF, 0xE7, 0xA3, 0xA0, 0xAB, 0xA7,
    )
)  # fmt: skip
"""Identifiers of the elements of a Matroska file, its segment and its clusters."""


_TS_PACKET, _TS_SYNC = 188, b"\x47"
"""Length of a packet of a transport stream (MPEG-TS), bytes, and its first byte."""

_OGG_HEADER, _OGG_LAST = 27, 4
"""Length of an Ogg page's header without its table of lengths, bytes, and the flag of the last page."""

_TAIL = 1 << 22
"""Bytes at the end of a file that hold a whole Ogg page or JPEG."""


def is_cut_off(path: str, container: str) -> bool:
    """Whether the file ends before its own structure does; False for other containers.

    Args:
        path: the file.
        container: ffmpeg's name of the container.
    """
    if container not in _CHECKS:
        return False
    with Path(path).open("rb") as file:
        return _CHECKS[container](file, Path(path).stat().st_size)


def _matroska_is_cut(file: BinaryIO, size: int) -> bool:
    """Walks the elements: an identifier, a length and that many bytes. Live recordings leave lengths open."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(12)
        id_bytes = 9 - head[0].bit_length()
        element = int.from_bytes(head[:id_bytes], "big")
        if element not in _ELEMENTS:
            return len(head) < id_bytes
        if len(head) == id_bytes:
            return True
        size_bytes = 9 - head[id_bytes].bit_length()
        field = head[id_bytes : id_bytes + size_bytes]
        mask = (1 << 7 * size_bytes) - 1
        length = int.from_bytes(field, "big") & mask
        place += id_bytes + size_bytes
        if length == mask:
            continue  # without a length: what it holds follows
        place += length
        if len(field) < size_bytes or place > size:
            return True
        if element == _SEGMENT:
            return False  # complete, whatever follows it
    return False


def _gif_is_cut(file: BinaryIO, size: int) -> bool:
    """Walks the blocks up to the trailer."""
    head = file.read(13)
    if len(head) < 13:
        return True
    file.seek(_palette_bytes(head[10]), 1)
    while kind := file.read(1):
        if kind == b";":
            return False
        if kind == b",":
            descriptor = file.read(9)
            if len(descriptor) < 9:
                return True
            file.seek(_palette_bytes(descriptor[8]), 1)
        file.seek(1, 1)  # label of an extension, or code size of an image
        for block in _gif_blocks(file):
            file.seek(block, 1)
    return True


def _gif_blocks(file: BinaryIO) -> Iterator[int]:
    while (length := file.read(1)) and length[0]:
        yield length[0]


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _ogg_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the last page is not whole, or not marked as the last one."""
    tail = _tail(file, size)
    page = tail.rfind(b"OggS")
    header = tail[page : page + _OGG_HEADER]
    if page < 0 or len(header) < _OGG_HEADER:
        return True
    lengths = tail[page + _OGG_HEADER : page + _OGG_HEADER + header[26]]
    end = page + _OGG_HEADER + header[26] + sum(lengths)
    return end > len(tail) or not header[5] & _OGG_LAST


def _transport_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether a packet has begun and is not whole; a stream that ends between packets is not cut off."""
    file.seek(size - size % _TS_PACKET)
    return file.read(1) == _TS_SYNC


def _jpegs_are_cut(file: BinaryIO, size: int) -> bool:
    tail = _tail(file, size)
    return tail.rfind(b"\xff\xd8") > tail.rfind(b"\xff\xd9")


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - _TAIL))
    return file.read()


_CHECKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "matroska,webm": _matroska_is_cut,
    "gif": _gif_is_cut,
    "ogg": _ogg_is_cut,
    "mpegts": _transport_is_cut,
    "mjpeg": _jpegs_are_cut,
}
"""The check of each container, by ffmpeg's name."""
