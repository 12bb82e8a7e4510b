# SPDX-License-Identifier: Apache-2.0
"""Whether a film ends early, in containers whose end ffmpeg passes over in silence: Matroska, WebM, GIF."""

from __future__ import annotations

from collections.abc import Iterator
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


def is_cut_off(path: str, container: str) -> bool:
    """Whether the file ends before its own structure does; False for other containers.

    Args:
        path: the file.
        container: ffmpeg's name of the container.
    """
    checks = {"matroska,webm": _matroska_is_cut, "gif": _gif_is_cut}
    if container not in checks:
        return False
    with Path(path).open("rb") as file:
        return checks[container](file, Path(path).stat().st_size)


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
