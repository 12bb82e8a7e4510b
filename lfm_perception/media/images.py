# SPDX-License-Identifier: Apache-2.0
"""Conversion of images to RGB: files and ROS messages of every encoding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError, os_reason, shown
from lfm_perception.files import read_bytes
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.media.image_header import has_surplus, identify, plain_png
from lfm_perception.media.raw_images import BAYER, demosaiced, from_raw
from lfm_perception.scene import MAX_PIXELS, Image, check_size

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

FILE_KINDS = ("JPEG", "PNG", "BMP", "WebP", "PNM", "TIFF")
TOPIC_KINDS = ("JPEG", "PNG")
"""Kinds of encoded images that are read from files, and from messages."""

MAX_FILE_BYTES = 8 * MAX_PIXELS
"""Maximum size of a file: 4 channels of 16 bits without compression."""

REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
"""Scales at which JPEG can be decoded: an eighth, a quarter, a half."""

VIDEO = re.compile(r"h\.?26[3456]|x26[45]|hevc|avc|av1|vp[89]|theora|ffmpeg|nvenc|mpeg[124]", re.IGNORECASE)
"""Formats of video codecs, as ffmpeg_image_transport and Foxglove write them."""

JPEG_QUALITY = 85


def encode(image: Image, suffix: str, quality: int = JPEG_QUALITY) -> bytes:
    """The image (RGB) as the content of a file of this kind, `.png` or `.jpg` for example."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = (cv2.IMWRITE_JPEG_QUALITY, quality) if suffix in (".jpg", ".jpeg") else ()
    return cv2.imencode(suffix, bgr, options)[1].tobytes()


def from_message(message: Any, name: str, width: int | None = None, depth: BitDepth | None = None) -> Image:
    """A sensor_msgs Image or CompressedImage, of rclpy or of rosbags, as RGB.

    Args:
        message: the message.
        name: name of the image in error messages.
        width: a width that suffices, for a cheaper conversion: separate pixels are averaged to it, JPEG is
            decoded at a half, a quarter or an eighth, not below it; others keep their size.
        depth: that of the stream, for 16-bit images; one of its own by default.

    Raises:
        PerceptionError: the encoding is not read, the data is cut off or the size is invalid.
    """
    depth = depth or BitDepth()
    if hasattr(message, "format"):
        return _from_compressed(message, name, width, depth)
    return from_raw(message, name, width, depth)


def _from_compressed(message: Any, name: str, width: int | None, depth: BitDepth) -> Image:
    """A CompressedImage; `format` names the encoding before compression, and after it that of the file.

    As in compressed_image_transport: `rgb8; jpeg compressed bgr8`. Bayer images are compressed as they are.
    """
    described = str(message.format)
    original, _, file = described.partition(";")
    if "compressedDepth" in described:
        raise PerceptionError(
            f"{name} holds distances (format {shown(described)}), not a picture: "
            f"use the compressed topic of the color or infrared camera"
        )
    data = bytes(message.data)
    if VIDEO.search(described) and identify(data).kind not in TOPIC_KINDS:
        raise PerceptionError(
            f"{name} is a piece of a video (format {shown(described)}), which is not read: "
            f"decode it with image_transport republish and use the raw topic"
        )
    pattern = original.rstrip("0123456789")
    if pattern in BAYER and not re.search("bgr|rgb", file):
        return demosaiced(decode(data, name, kinds=TOPIC_KINDS, depth=depth)[..., 0], pattern)
    rgb = decode(data, name, width, kinds=TOPIC_KINDS, depth=depth)
    return np.ascontiguousarray(rgb[..., ::-1]) if "compressed rgb" in file else rgb


def reason(error: Exception) -> str:
    """The first line of another library's error, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def read(path: Path, depth: BitDepth | None = None, *, as_stored: bool = False) -> Image:
    """The image of a file as RGB, `as_stored` without its EXIF orientation.

    Raises PerceptionError when it cannot be read or decoded.
    """
    try:
        data = read_bytes(path, MAX_FILE_BYTES)
    except OSError as error:
        raise PerceptionError(f"image {path} cannot be read: {os_reason(error)}") from error
    return decode(data, f"image {path}", depth=depth, as_stored=as_stored)


def decode(
    data: bytes | NDArray[np.uint8],
    name: str,
    width: int | None = None,
    *,
    kinds: Sequence[str] = FILE_KINDS,
    depth: BitDepth | None = None,
    as_stored: bool = False,
) -> Image:
    """The image encoded in `data` as RGB, rotated as its EXIF orientation says unless `as_stored`.

    Gray becomes RGB, an alpha channel is dropped, 16 bits are scaled to 8; `name`, `width` (before the
    rotation) and `depth` as in `from_message`. Kind and size are read before anything is decoded.

    Raises:
        PerceptionError: it cannot be decoded, is of none of `kinds`, too large, or has floating-point values.
    """
    data = bytes(data)
    encoded = identify(data)
    if encoded.kind and encoded.kind not in kinds:
        raise PerceptionError(f"{name} is {encoded.kind}, which is not read: give {' or '.join(kinds)}")
    damaged = PerceptionError(f"{name} cannot be decoded: it is damaged, cut off or not an image")
    if not encoded.width or not encoded.height:
        raise damaged
    check_size(encoded.width, encoded.height, name)
    # Not IMREAD_COLOR_RGB: OpenCV 5.0.0 reads 16-bit TIFF wrong with it.
    flag = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if width is not None and encoded.kind == "JPEG":
        flag = next((flag for scale, flag in REDUCED.items() if encoded.width > (width - 1) * scale), flag)
    if as_stored:
        flag |= cv2.IMREAD_IGNORE_ORIENTATION
    if encoded.kind == "PNG" and has_surplus(data, encoded.width, encoded.height):
        raise damaged
    pixels = plain_png(data) if encoded.kind == "PNG" else data
    decoded: Any = None
    with suppress(cv2.error):
        decoded = cv2.imdecode(np.frombuffer(pixels, np.uint8), flag)
    if decoded is None:
        raise damaged
    if decoded.dtype == np.uint16:
        decoded = (depth or BitDepth()).to_8_bits(decoded)
    if decoded.dtype != np.uint8:
        raise PerceptionError(
            f"{name} holds {decoded.dtype} values, which have no fixed range: give 8 or 16 bits per channel"
        )
    with suppress(cv2.error):  # OpenCV 4.5.4 converts no image of a single pixel
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    raise damaged
