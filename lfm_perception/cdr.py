# SPDX-License-Identifier: Apache-2.0
"""Deserialization of CDR in place: header stamps, images and strings of ROS messages, without ROS or a copy.

Offsets count from the start of the message. The 4 bytes of encapsulation before its fields do not change the
alignment of 4-byte values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from types import SimpleNamespace

from lfm_perception.errors import PerceptionError
from lfm_perception.stamps import join_stamp
from lfm_perception.text import safe_line, safe_text

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The first fields of an image message; the size in pixels is None for a compressed image.

    `end` is the offset of the field that follows.
    """

    stamp_ns: int
    frame_id: str
    width: int | None
    height: int | None
    end: int


def header_stamp_ns(raw: Buffer) -> int:
    """The stamp of a serialized message that begins with a `std_msgs/Header`.

    Raises:
        PerceptionError: the message is cut off.
    """
    if len(raw) < 12:
        raise PerceptionError(f"a message of {len(raw)} bytes is too short to hold a header")
    seconds, nanoseconds = struct.unpack_from(f"{_byte_order(raw)}iI", raw, 4)
    return join_stamp(int(seconds), int(nanoseconds))


def image_header(raw: bytes, topic: str, *, compressed: bool) -> ImageHeader:
    """The header of a serialized Image or CompressedImage. Takes microseconds and reads no pixel.

    Args:
        topic: what error messages call the source of the image.

    Raises:
        PerceptionError: the message is cut off.
    """
    try:
        order = _byte_order(raw)
        seconds, nanoseconds = struct.unpack_from(f"{order}iI", raw, 4)
        frame_id, end = _string(raw, 12, order)
        end, stamp_ns = _aligned(end), join_stamp(seconds, nanoseconds)
        if compressed:
            return ImageHeader(stamp_ns, frame_id, None, None, end)
        height, width = struct.unpack_from(f"{order}II", raw, end)
        return ImageHeader(stamp_ns, frame_id, width, height, end + 8)
    except (struct.error, IndexError) as error:
        raise _cut_off(raw, topic) from error


def string(raw: bytes, topic: str, limit: int) -> str:
    """The text of a serialized `std_msgs/String`.

    Args:
        topic: what error messages call the source of the text.
        limit: maximum length in characters; a longer text is not decoded.

    Raises:
        PerceptionError: the message is cut off or longer than `limit`.
    """
    if len(raw) <= 4 * limit + 12:
        try:
            text = bytes(_bytes(raw, 4, _byte_order(raw))[:-1]).decode(errors="replace")
        except (struct.error, IndexError) as error:
            raise PerceptionError(f"a text on {topic} is cut off after {len(raw)} bytes") from error
        if len(text) <= limit:
            return safe_text(text)
    raise PerceptionError(f"a text of {len(raw)} bytes on {topic} is longer than {limit} characters")


def image_fields(raw: bytes, header: ImageHeader, topic: str) -> SimpleNamespace:
    """The fields that follow the header, named as in the message; `data` is a view of `raw`.

    Raises:
        PerceptionError: the message is cut off.
    """
    try:
        order = _byte_order(raw)
        text, end = _string(raw, header.end, order)
        if header.width is None:
            return SimpleNamespace(format=text, data=_bytes(raw, _aligned(end), order))
        step = _aligned(end + 1)
        return SimpleNamespace(
            height=header.height,
            width=header.width,
            encoding=text,
            is_bigendian=raw[end],
            step=struct.unpack_from(f"{order}I", raw, step)[0],
            data=_bytes(raw, step + 4, order),
        )
    except (struct.error, IndexError) as error:
        raise _cut_off(raw, topic) from error


def _cut_off(raw: bytes, topic: str) -> PerceptionError:
    return PerceptionError(f"an image on {topic} is cut off after {len(raw)} bytes")


def _byte_order(raw: Buffer) -> str:
    return "<" if raw[1] else ">"


def _aligned(offset: int) -> int:
    """The next offset at which 4-byte values may lie."""
    return offset + -offset % 4


def _string(raw: bytes, offset: int, order: str) -> tuple[str, int]:
    """A string, and the offset behind its terminating zero."""
    (length,) = struct.unpack_from(f"{order}I", raw, offset)
    text = raw[offset + 4 : offset + 4 + length - 1].decode(errors="replace")
    return safe_line(text), offset + 4 + length


def _bytes(raw: bytes, offset: int, order: str) -> memoryview:
    (length,) = struct.unpack_from(f"{order}I", raw, offset)
    return memoryview(raw)[offset + 4 : offset + 4 + length]
